"""Models as artifacts (`Document`) and as plain safetensors files.

Both hold the table of `weights.py` and the config as JSON. Memory matters at hundreds of megabytes: arrays and
tensors share it, a tied unembedding is stored once, and files are mapped instead of read.
"""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hagd.artifacts.document import Document
from hagd.errors import CorruptArtifactError, InvalidInputError
from hagd.models.language_model import LanguageModel, ModelConfig
from hagd.models.weights import config_from_json, config_to_json, from_tensors, named_tensors, weight_digest

FORMAT = "hagd.model/1"


def model_to_document(model: LanguageModel) -> Document:
    """Give the artifact of a model. Its arrays share memory with a model on the CPU."""
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in named_tensors(model).items()}
    return Document(_header(model.config), arrays)


def model_from_document(document: Document, device: str = "cpu") -> LanguageModel:
    """Read what `model_to_document` wrote, to some device. On the CPU the weights share memory with the document: never
    write to them.

    Raises:
        CorruptArtifactError: the document is not a model, is from another version, or is incomplete.
    """
    tensors = {name: _share(array).to(device) for name, array in document.tensors.items()}
    return _build(document.content, tensors)


def save_model(model: LanguageModel, path: Path, extra: Mapping[str, str]) -> None:
    """Write a model as one safetensors file, with its digest and `extra` in the metadata."""
    tensors = named_tensors(model)
    content = {**_header(model.config), "digest": weight_digest(tensors), "extra": dict(extra)}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, {"hagd": json.dumps(content)})


def read_model(path: Path) -> tuple[LanguageModel, dict[str, Any]]:
    """Read what `save_model` wrote: the model, and the metadata with `digest` and `extra`.

    Raises:
        CorruptArtifactError: the file is no such file, or its weights do not match their digest.
    """
    try:
        with safe_open(path, framework="pt") as file:
            content = json.loads((file.metadata() or {})["hagd"])
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CorruptArtifactError(f"{path.name} is not a stored model: {error}", "delete it to rebuild it") from error
    if weight_digest(tensors) != content.get("digest"):
        raise CorruptArtifactError(f"the weights in {path.name} do not match their digest", "delete it to rebuild it")
    return _build(content, tensors), content


def _header(config: ModelConfig) -> dict[str, Any]:
    return {"kind": "model", "format": FORMAT, "config": config_to_json(config)}


def _build(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LanguageModel:
    if content.get("format") != FORMAT:
        found = content.get("format", content.get("kind", "something else"))
        raise CorruptArtifactError(
            f"expected a model in format {FORMAT}, found {found}", "recompute it with this version"
        )
    try:
        return from_tensors(config_from_json(content["config"]), tensors)
    except (KeyError, InvalidInputError) as error:
        raise CorruptArtifactError(f"the stored model is incomplete: {error}", "recompute it") from error


def _share(array: np.ndarray) -> Tensor:
    """Wrap an array without copying; decoded arrays are read-only, which torch warns about."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
