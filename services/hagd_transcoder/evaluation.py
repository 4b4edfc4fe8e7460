"""The stage that measures dictionaries in a folder, whoever made them, on the held-out documents of a corpus.

This module only checks configs and loads without torch; the work is in `evaluation_stage.py`.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from hagd.errors import UsageError
from hagd.pipeline.contract import Config, StageSpec
from hagd.pipeline.fields import fields_of, read_fields
from hagd.pipeline.local_files import digest_of_folder


class EvaluationConfig(BaseModel):
    """Config of a measurement."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    dictionaries: str = ""
    """A folder of dictionaries in any layout that `hagd transcoder convert` reads."""
    dictionaries_digest: str | None = None
    """sha256 of that folder's files, in place of reading them to find out; refused when another is found."""
    any_name: bool = False
    """Take dictionaries that name another model, if width, layers and digests fit."""
    traced: Annotated[int, Field(ge=0)] = 16
    """Held-out prompts that are traced to measure what goes past the dictionaries; 0 for none."""
    shown_features: Annotated[int, Field(ge=0)] = 8
    """Features of each layer, drawn among those that fire, that are shown by what they fire on most; 0 for none."""
    shown_windows: Annotated[int, Field(gt=0)] = 5
    """Held-out windows that each of them is shown by."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Decides which windows, prompts and features are drawn."""


def read_evaluation_config(config: Config) -> EvaluationConfig:
    """Check a config.

    Raises:
        InvalidInputError: a field is unknown or out of range.
        UsageError: no dictionaries are given.
    """
    checked = read_fields("corpus-evaluation", EvaluationConfig, config)
    if not checked.dictionaries:
        raise UsageError("there are no dictionaries to measure", "name a folder in dictionaries")
    return checked


def resolve(config: Config) -> dict[str, Any]:
    """Give what determines the result: for files their content, never where they lie."""
    checked = read_evaluation_config(config)
    fields = checked.model_dump(mode="json", exclude_defaults=True, exclude={"dictionaries", "dictionaries_digest"})
    digest = checked.dictionaries_digest or digest_of_folder(checked.dictionaries)
    return {"dictionaries": digest, **fields}


STAGE = StageSpec(
    id="corpus-evaluation",
    semantics_version=1,
    inputs=("model", "corpus"),
    outputs=("dictionaries",),
    run="hagd_transcoder.evaluation_stage:run",
    resolve=resolve,
    title="Measuring dictionaries on text",
    fields=fields_of(EvaluationConfig),
)
