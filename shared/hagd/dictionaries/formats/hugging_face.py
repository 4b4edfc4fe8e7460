"""Our own layout for sharing, as a repository of the Hugging Face hub: `config.json`, `model.safetensors`, `README.md`.

The config is the content of the artifact (`storage.py`) with what the dictionaries belong to: base model, revision and
digest, where they came from, and the digest of the weights beside it. Tensors are `{layer}.{name}`, float32. It holds
dictionaries of layers, or one transcoder across layers.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from safetensors.numpy import save_file

from hagd.artifacts.document import Document
from hagd.dictionaries import cross_layer, storage
from hagd.dictionaries.cross_layer import CrossLayerTranscoder, Dictionaries
from hagd.dictionaries.formats.files import Folder
from hagd.dictionaries.formats.found import Found, layers_of
from hagd.dictionaries.names import CROSS_LAYER
from hagd.dictionaries.storage import any_dictionaries_from_document, any_dictionaries_to_document
from hagd.errors import CorruptArtifactError, InvalidInputError
from hagd.models.weights import check_finite

NAME = "hf"
_CONFIG, _WEIGHTS, _CARD = "config.json", "model.safetensors", "README.md"
FILES = (_CONFIG, _WEIGHTS)
_SCHEMAS = (storage.SCHEMA, cross_layer.SCHEMA)


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


def matches(folder: Folder) -> bool:
    return folder.has_tensors(_WEIGHTS) and folder.has(_CONFIG) and folder.json(_CONFIG).get("schema") in _SCHEMAS


def read(folder: Folder) -> Found:
    """Read such a folder.

    Raises:
        InvalidInputError: a tensor is missing, of a wrong shape or not finite, or the weights are not the config's.
    """
    config = folder.json(_CONFIG)
    tensors = folder.tensors(_WEIGHTS)
    if folder.has(_WEIGHTS) and _digest(folder.path / _WEIGHTS) != config.get("weights_sha256"):
        raise InvalidInputError(
            f"{_WEIGHTS} does not match its digest in {_CONFIG}", "the files are of two versions: fetch both again"
        )
    check_finite(tensors)
    try:
        arrays = {name: tensor.to(torch.float32).numpy() for name, tensor in tensors.items()}
        content = any_dictionaries_from_document(Document(config, arrays))
    except CorruptArtifactError as error:
        raise InvalidInputError(error.message, "the folder is incomplete: fetch it again") from error
    across = isinstance(content, CrossLayerTranscoder)
    base = config.get("base_model") or {}
    named = {key: base.get(key) for key in ("name", "revision", "digest")}
    for key, value in named.items():
        if value is not None and not isinstance(value, str):
            raise InvalidInputError(f"base_model.{key} in {_CONFIG} is {value!r}, expected text", "fetch it again")
    return Found(
        source_format=NAME,
        content=content if across else layers_of(content.values(), folder.path.name),
        space="mlp-input",
        n_layers=content.n_layers if across else None,
        base_model=named["name"],
        revision=named["revision"],
        digest=named["digest"],
    )


def write(dictionaries: Dictionaries, folder: Path, belongings: Belongings, metrics: Mapping[str, Any]) -> None:
    """Write such a folder: dictionaries of the MLP's own input, and what was measured about them (JSON content)."""
    document = any_dictionaries_to_document(dictionaries, metrics)
    tensors = {name: np.ascontiguousarray(value) for name, value in document.tensors.items()}
    save_file(tensors, folder / _WEIGHTS, {"format": "pt"})
    weights = _digest(folder / _WEIGHTS)
    config = {
        **document.content,
        "base_model": {
            "name": belongings.base_model,
            "revision": belongings.revision,
            "digest": belongings.digest,
        },
        "input": "mlp-input",
        "source_format": belongings.source_format,
        **({"origin": belongings.origin} if belongings.origin else {}),
        "weights_sha256": weights,
    }
    (folder / _CONFIG).write_text(json.dumps(config, indent=2, allow_nan=False) + "\n")
    (folder / _CARD).write_text(_card(dictionaries, belongings, metrics, weights))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _card(dictionaries: Dictionaries, belongings: Belongings, metrics: Mapping[str, Any], weights: str) -> str:
    """Give the model card: YAML that the hub reads, then what a person wants to know."""
    header: dict[str, Any] = {"library_name": "hagd", "tags": ["transcoder", "interpretability"]}
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
        f"- sha256 of `{_WEIGHTS}`: `{weights}`",
        f"- read from: {belongings.source_format}{f', {belongings.origin}' if belongings.origin else ''}\n",
        *_table(["layer", "kind", "sparsity", "features", *names], rows),
        "\nRead with `hagd transcoder convert`, or tensor by tensor: `{layer}.w_enc` (d_model, d_feature), `b_enc`,",
        f"`w_dec` {text.decoder}, `b_dec`, and where present `w_gate`, `b_gate`, `w_skip` (applied as x W) and",
        "`threshold`.",
    ]
    return "\n".join(lines) + "\n"


class _Text(NamedTuple):
    """What the card says of one kind of content."""

    title: str
    what: str
    decoder: str


_APART = _Text(
    "Dictionaries",
    "Each reads the input of its MLP, gain and bias of the norm included, and reconstructs what the MLP writes.",
    "(d_feature, d_model)",
)
_ACROSS = _Text(
    "A cross-layer transcoder",
    "The features of a layer read the input of its MLP, gain and bias of the norm included, and write to the outputs\n"
    "of the MLPs of that layer and all later ones; each output is reconstructed by all that write to it.",
    "(layers from this one on, d_feature, d_model)",
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
