"""The stage that takes dictionaries from a folder, whoever made them, in place of training some.

This module only checks configs and loads without torch; the work is in `dictionary_import_stage.py`.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict

from hagd.errors import UsageError
from hagd.pipeline.contract import Config, StageSpec
from hagd.pipeline.fields import fields_of, read_fields
from hagd.pipeline.local_files import digest_of_folder


class DictionaryImportConfig(BaseModel):
    """Config of what is taken."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    dictionaries: str = ""
    """A folder of dictionaries in any layout that `hagd transcoder convert` reads."""
    dictionaries_digest: str | None = None
    """sha256 of that folder's files, in place of reading them to find out; refused when another is found."""
    any_name: bool = False
    """Take dictionaries that name another model, if width, layers and digests fit."""
    measure: bool = True
    """Refuse dictionaries that explain less than the mean does on the task's own prompts."""


def read_import_config(config: Config) -> DictionaryImportConfig:
    """Check a config.

    Raises:
        InvalidInputError: a field is unknown or of the wrong type.
        UsageError: no dictionaries are given.
    """
    checked = read_fields("dictionary-import", DictionaryImportConfig, config)
    if not checked.dictionaries:
        raise UsageError("there are no dictionaries to take", "name a folder in dictionaries")
    return checked


def resolve(config: Config) -> dict[str, Any]:
    """Give what determines the result: for files their content, never where they lie."""
    checked = read_import_config(config)
    fields = checked.model_dump(mode="json", exclude_defaults=True, exclude={"dictionaries", "dictionaries_digest"})
    return {"dictionaries": checked.dictionaries_digest or digest_of_folder(checked.dictionaries), **fields}


STAGE = StageSpec(
    id="dictionary-import",
    semantics_version=1,
    inputs=("model", "task"),
    outputs=("dictionaries",),
    run="hagd_transcoder.dictionary_import_stage:run",
    resolve=resolve,
    title="Reading dictionaries",
    fields=fields_of(DictionaryImportConfig),
)
