"""The stage that prepares one prompt: a pretrained model, what stands in for its MLPs, and the tokens of a text.

This module only checks configs and loads without torch; the work is in `prompt_stage.py`.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from hagd.dictionaries.names import NEURONS
from hagd.errors import UsageError
from hagd.pipeline.contract import Config, StageSpec
from hagd.pipeline.fields import fields_of, read_fields
from hagd.pipeline.local_files import digest_of_folder
from hagd_transcoder.model_source import PretrainedSource, identify_model, parse_model


class PromptConfig(BaseModel):
    """Config of a prompt."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    model: dict[str, Any]
    """The model: `path`, and if need be `revision`, `gguf`, `digest`, `bos`."""
    text: str | None = None
    """What it reads."""
    tokens: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """The same as token ids, the first one included, in place of a text."""
    dictionaries: str = NEURONS
    """`neurons`, or a folder of dictionaries in any layout that `hagd transcoder convert` reads."""
    dictionaries_digest: str | None = None
    """sha256 of that folder's files, in place of reading them to find out; refused when another is found."""
    any_name: bool = False
    """Take dictionaries that name another model, if width, layers and digests fit."""
    measure: bool = True
    """Refuse dictionaries that explain less than the mean does, on the prompt and a short English text."""


def read_prompt_config(config: Config) -> tuple[PromptConfig, PretrainedSource]:
    """Check a config.

    Raises:
        InvalidInputError: a field is unknown or out of range.
        UsageError: no pretrained model, or not one of text and tokens, is given.
    """
    checked = read_fields("prompt", PromptConfig, {"model": {}, **config})
    if (checked.text is None) == (checked.tokens is None):
        raise UsageError("a prompt is a text or tokens, one of the two", "give text or tokens")
    source = parse_model(checked.model, 0)
    if not isinstance(source, PretrainedSource):
        raise UsageError("a prompt needs a pretrained model", "give a model folder, a hub id or 'smollm2'")
    return checked, source


def resolve(config: Config) -> dict[str, Any]:
    """Give what determines the prompt: for files their content, never where they lie."""
    checked, source = read_prompt_config(config)
    fields = checked.model_dump(
        mode="json", exclude_defaults=True, exclude={"model", "dictionaries", "dictionaries_digest"}
    )
    if checked.dictionaries != NEURONS:
        fields["dictionaries"] = checked.dictionaries_digest or digest_of_folder(checked.dictionaries)
    return {"model": identify_model(source), **fields}


STAGE = StageSpec(
    id="prompt",
    semantics_version=1,
    inputs=(),
    outputs=("model", "dictionaries", "prompt"),
    run="hagd_transcoder.prompt_stage:run",
    resolve=resolve,
    title="Reading the prompt",
    fields=fields_of(PromptConfig),
)
