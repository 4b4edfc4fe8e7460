"""Our own layout for sharing, as a repository of the Hugging Face hub: `config.json`, `model.safetensors`, `README.md`.

The config is the content of the artifact (`storage.py`) with what the dictionaries belong to: base model, revision and
digest, where they came from, and the digest of the weights beside it. Tensors are `{layer}.{name}`, float32. It holds
dictionaries of layers, or one transcoder across layers.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from hagd.artifacts.document import Document
from hagd.dictionaries import cross_layer, storage
from hagd.dictionaries.cross_layer import CrossLayerTranscoder, Dictionaries
from hagd.dictionaries.formats.card import Belongings, Layout, write_card
from hagd.dictionaries.formats.files import Folder
from hagd.dictionaries.formats.found import Found, layers_of
from hagd.dictionaries.storage import any_dictionaries_from_document, any_dictionaries_to_document
from hagd.errors import CorruptArtifactError, InvalidInputError
from hagd.models.weights import check_finite

NAME = "hf"
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
FILES = (_CONFIG, _WEIGHTS)
_SCHEMAS = (storage.SCHEMA, cross_layer.SCHEMA)


_READING = (
    "tensor by tensor: `{layer}.w_enc` (d_model, d_feature), `b_enc`, `w_dec` (d_feature, d_model), `b_dec`, and\n"
    "where present `w_gate`, `b_gate`, `w_skip` (applied as x W) and `threshold`."
)
_READING_ACROSS = _READING.replace("(d_feature, d_model)", "(layers from this one on, d_feature, d_model)")


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
    layout = Layout("hagd", _READING_ACROSS if isinstance(dictionaries, CrossLayerTranscoder) else _READING)
    write_card(folder, dictionaries, belongings, metrics, replace(layout, digests={_WEIGHTS: weights}))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
