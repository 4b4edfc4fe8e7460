"""The stage that prepares a corpus: a pretrained model, and text as that model reads it.

This module only checks configs and loads without torch; the work is in `corpus_stage.py`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from hagd.corpora.sources import digest_of_files, files_of
from hagd.errors import UsageError
from hagd.pipeline.contract import Config, StageSpec
from hagd.pipeline.fields import fields_of, read_fields
from hagd.tasks.registry import TASKS, find_task
from hagd_transcoder.model_source import PretrainedSource, identify_model, parse_model

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
SHORTEST_CONTEXT: Final = 16


class CorpusConfig(BaseModel):
    """Config of a corpus."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    model: dict[str, Any]
    """The model whose tokenizer is used: `path`, and if need be `revision`, `gguf`, `digest`, `bos`."""
    data: tuple[str, ...] = ()
    """Files of text or lines of JSON, or folders of them."""
    digest: str | None = None
    """sha256 of the data, in place of reading it to find out; refused when another is found."""
    field: str | None = None
    """Field of a line of JSON, or column of a table, with the text; null for `text`, `raw_content` or `content`."""
    mix: dict[str, Share] = {}
    """Task -> share of the tokens that are its prompts, those that nothing is selected or verified on."""
    context: Annotated[int, Field(ge=SHORTEST_CONTEXT)] = 128
    """Tokens of the longest window."""
    most_tokens: Positive = 2_000_000
    """Where reading stops."""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Share of the documents that are only measured on."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Decides the order of documents, and which are held out."""


def read_corpus_config(config: Config) -> tuple[CorpusConfig, PretrainedSource]:
    """Check a config.

    Raises:
        InvalidInputError: a field is unknown or out of range.
        UsageError: no model or no data is given, or prompts cannot be mixed in.
        UnknownNameError: there is no task of that name.
    """
    checked = read_fields("corpus", CorpusConfig, {"model": {}, **config})
    if not checked.data:
        raise UsageError("there is no text to train on", "name files or folders in data")
    _check_mix(checked.mix)
    source = parse_model(checked.model, checked.seed)
    if not isinstance(source, PretrainedSource):
        raise UsageError("a corpus needs a pretrained model", "give a model folder, a hub id or 'smollm2'")
    return checked, source


def _check_mix(mix: Mapping[str, float]) -> None:
    for name in mix:
        entry = find_task(name)
        if entry.algorithmic or entry.name == "jsonl" or entry.name != name:
            written = ", ".join(it.name for it in TASKS.values() if not it.algorithmic and it.name != "jsonl")
            raise UsageError(f"the prompts of {name!r} cannot be mixed into text", f"tasks in words: {written}")
    if sum(mix.values()) >= 1:
        raise UsageError(f"the shares of {', '.join(mix)} leave nothing for the text", "let them add up to less than 1")


def resolve(config: Config) -> dict[str, Any]:
    """Give what determines the corpus: for files their content, never where they lie."""
    checked, source = read_corpus_config(config)
    fields = checked.model_dump(mode="json", exclude_defaults=True, exclude={"model", "data", "digest"})
    digest = checked.digest or digest_of_files(files_of(checked.data))
    return {"model": identify_model(source), "digest": digest, **fields}


STAGE = StageSpec(
    id="corpus",
    semantics_version=2,
    inputs=(),
    outputs=("model", "corpus"),
    run="hagd_transcoder.corpus_stage:run",
    resolve=resolve,
    title="Reading text",
    fields=fields_of(CorpusConfig),
)
