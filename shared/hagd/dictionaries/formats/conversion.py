"""From a folder of another tool to a folder for sharing: read, check against the model, measure, fold, write."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Int
from safetensors import SafetensorError
from torch import Tensor

from hagd.artifacts.folders import publish_folder, require_empty
from hagd.dictionaries.cross_layer import CrossLayerTranscoder, Dictionaries
from hagd.dictionaries.formats import circuit_tracer, circuit_tracer_clt, hugging_face
from hagd.dictionaries.formats.card import Belongings, write_card
from hagd.dictionaries.formats.found import Found, InputSpace
from hagd.dictionaries.formats.probing import Quality, probe
from hagd.dictionaries.formats.registry import check_belongs
from hagd.dictionaries.formats.spaces import fold
from hagd.errors import InvalidInputError
from hagd.models.loading import LoadedModel

Target = Literal["hf", "circuit-tracer"]
ROW_TOKENS, MOST_ROWS = 128, 64
"""How much of a text a probe reads."""
_TOLD = ("n_features", "k")


@dataclass(frozen=True)
class Converted:
    """What was written, and how good it was measured to be."""

    dictionaries: Dictionaries
    space: InputSpace
    """What the source was taken to read."""
    quality: tuple[Quality, ...]
    """Empty without a text to measure on."""


def convert(
    found: Found, loaded: LoadedModel, target: Target, out: Path, *, text: str | None = None, any_name: bool = False
) -> Converted:
    """Write transcoders as dictionaries of the MLP's own input.

    Args:
        out: a folder that is empty or does not exist; it appears when it is complete.
        text: what to measure on, in the model's language; without one, what was measured before is passed on.
        any_name: see `check_belongs`.

    Raises:
        InvalidInputError: they are not of this model, do not explain it, cannot be folded or have no place in `target`.
    """
    require_empty(out)
    check_belongs(found, loaded, any_name=any_name)
    quality: tuple[Quality, ...] = ()
    if text is not None:
        probed = probe(found, loaded.model, rows_of(text, loaded))
        found, quality = replace(found, space=probed.space), probed.layers
    content = fold(found, loaded.model).content
    measured = [asdict(it) for it in quality] or [_plain(it) for it in found.measured]
    belongings = Belongings(loaded.name, loaded.revision, loaded.digest, found.source_format, found.origin)
    try:
        publish_folder(out, lambda partial: _write(content, partial, target, belongings, measured))
    except SafetensorError as error:
        raise InvalidInputError(f"{out} cannot be written: {error}", "choose another folder, or free space") from error
    return Converted(content, found.space, quality)


def rows_of(text: str, loaded: LoadedModel) -> Int[Tensor, "batch pos"]:
    """Cut a text into rows of tokens of one length, each beginning as prompts of the model do.

    Raises:
        InvalidInputError: the model has no tokenizer, or the text is too short to fill one row of three tokens.
    """
    tokenizer = loaded.tokenizer
    if tokenizer is None:
        raise InvalidInputError(f"{loaded.name} has no tokenizer to read a text with", "leave the text out")
    start: Sequence[int] = [tokenizer.bos_id] if loaded.bos and tokenizer.bos_id is not None else []
    ids = tokenizer.encode_continuation(text)
    length = min(ROW_TOKENS, loaded.model.config.n_positions) - len(start)
    length = min(length, len(ids))
    if length + len(start) < 3:
        raise InvalidInputError(f"the text has {len(ids)} tokens, a probe needs three", "give a longer text")
    rows = [[*start, *ids[at : at + length]] for at in range(0, len(ids) - length + 1, length)]
    return torch.tensor(rows[:MOST_ROWS])


def _write(
    dictionaries: Dictionaries,
    folder: Path,
    target: Target,
    belongings: Belongings,
    measured: Sequence[Mapping[str, Any]],
) -> None:
    metrics: dict[str, Any] = {"layers": measured} if measured else {}
    if target == "hf":
        hugging_face.write(dictionaries, folder, belongings, metrics)
    elif isinstance(dictionaries, CrossLayerTranscoder):
        circuit_tracer_clt.write(dictionaries, folder, belongings.base_model)
        write_card(folder, dictionaries, belongings, metrics, circuit_tracer_clt.LAYOUT)
    else:
        circuit_tracer.write(dictionaries, folder, belongings.base_model)
        write_card(folder, dictionaries, belongings, metrics, circuit_tracer.LAYOUT)


def _plain(measured: Mapping[str, Any]) -> dict[str, Any]:
    """Give the numbers among what was measured: a card has no room for histograms, and tells sparsity itself."""
    return {name: value for name, value in measured.items() if isinstance(value, int | float) and name not in _TOLD}
