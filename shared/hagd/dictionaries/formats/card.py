"""The model card beside dictionaries that are shared: what they are of, where they came from, how good they are."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from hagd.dictionaries.cross_layer import CrossLayerTranscoder, Dictionaries
from hagd.dictionaries.names import CROSS_LAYER

CARD: Final = "README.md"


@dataclass(frozen=True)
class Belongings:
    """What a set of dictionaries belongs to."""

    base_model: str
    """Hub id, or the name of a folder."""
    revision: str | None
    """Commit of a model of the hub; None for a folder."""
    digest: str
    """sha256 of its weights, see `weight_digest`."""
    source_format: str
    """Format that the dictionaries were read from."""
    origin: str | None = None
    """Repository and commit that they were pulled from."""


@dataclass(frozen=True)
class Layout:
    """What a card says of the files beside it."""

    library: str
    """Name of the library that reads them, as the hub knows it."""
    reading: str
    """How they are read by other means than ours: the end of a sentence."""
    digests: Mapping[str, str] = field(default_factory=dict[str, str])
    """sha256 by file."""


def write_card(
    folder: Path, dictionaries: Dictionaries, belongings: Belongings, metrics: Mapping[str, Any], layout: Layout
) -> None:
    """Write the card: YAML that the hub reads, then what a person wants to know; `metrics` is JSON content."""
    header: dict[str, Any] = {"library_name": layout.library, "tags": ["transcoder", "interpretability"]}
    # The hub links the base model, which a folder's name is not.
    header |= {"base_model": belongings.base_model} if belongings.revision else {}
    measured = {int(row["layer"]): row for row in metrics.get("layers", []) if "layer" in row}
    names = list(dict.fromkeys(name for row in measured.values() for name in row if name != "layer"))
    rows = [
        [str(layer), *told] + [_number(measured.get(layer, {}).get(name)) for name in names]
        for layer, told in _layers(dictionaries)
    ]
    text = _ACROSS if isinstance(dictionaries, CrossLayerTranscoder) else _APART
    lines = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n",
        f"# {text.title} of the MLPs of {belongings.base_model}\n",
        f"{text.what}\n",
        f"- base model: {belongings.base_model}",
        f"- revision: {belongings.revision or 'a local folder'}",
        f"- sha256 of its weights: `{belongings.digest}`",
        *(f"- sha256 of `{name}`: `{digest}`" for name, digest in layout.digests.items()),
        f"- read from: {belongings.source_format}{f', {belongings.origin}' if belongings.origin else ''}\n",
        *_table(["layer", "kind", "sparsity", "features", *names], rows),
        f"\nRead with `hagd transcoder convert`, or {layout.reading}",
    ]
    (folder / CARD).write_text("\n".join(lines) + "\n")


class _Text(NamedTuple):
    """What the card says of one kind of content."""

    title: str
    what: str


_APART = _Text(
    "Dictionaries",
    "Each reads the input of its MLP, gain and bias of the norm included, and reconstructs what the MLP writes.",
)
_ACROSS = _Text(
    "A cross-layer transcoder",
    "The features of a layer read the input of its MLP, gain and bias of the norm included, and write to the outputs\n"
    "of the MLPs of that layer and all later ones; each output is reconstructed by all that write to it.",
)


def _layers(dictionaries: Dictionaries) -> list[tuple[int, list[str]]]:
    """Give kind, sparsity and number of features by layer."""
    if isinstance(dictionaries, CrossLayerTranscoder):
        sparsity = _sparsity(dictionaries.k, "activation", dictionaries.activation, dictionaries.threshold is not None)
        return [(layer, [CROSS_LAYER, sparsity, str(len(it))]) for layer, it in enumerate(dictionaries.b_enc)]
    return [
        (layer, [it.kind, _sparsity(it.k, it.ranked_by, it.activation, it.threshold is not None), str(it.n_features)])
        for layer, it in dictionaries.items()
    ]


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


def _sparsity(k: int | None, ranked_by: str, activation: str, jumps: bool) -> str:
    if k is not None:
        return f"{k} largest by {ranked_by}"
    return "threshold per feature" if jumps else activation


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value if value is not None else "-")
