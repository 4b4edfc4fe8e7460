"""Directions that a graph shall end at, from small files: JSON, npy or safetensors. Loads without torch."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from hagd.errors import InvalidInputError

_LARGEST_BYTES: Final = 1 << 24


def read_vectors(files: Iterable[Path]) -> dict[str, list[float]]:
    """Read directions by name.

    A list of numbers in JSON and an npy array are called like their file, several in one file (an object in JSON,
    tensors in safetensors) by their own names.

    Raises:
        InvalidInputError: a file cannot be read, holds something else, or repeats a name.
    """
    found: dict[str, list[float]] = {}
    for file in files:
        for name, vector in _read(file.expanduser()).items():
            if name in found:
                raise InvalidInputError(f"two vectors are called {name!r}", "give each a name of its own")
            if vector.ndim != 1 or vector.dtype.kind not in "fiu":
                raise InvalidInputError(
                    f"{name!r} in {file.name} has shape {vector.shape} and dtype {vector.dtype}",
                    "give one number per dimension of the residual stream",
                )
            if not np.isfinite(vector).all():
                raise InvalidInputError(f"{name!r} in {file.name} holds NaN or infinity", "check what wrote the file")
            found[name] = vector.astype(np.float64).tolist()
    return found


def _read(file: Path) -> Mapping[str, np.ndarray]:
    try:
        if (size := file.stat().st_size) > _LARGEST_BYTES:
            raise InvalidInputError(f"{file.name} has {size} bytes", "give a file of single directions")
        if file.suffix == ".safetensors":
            return load_file(file)
        if file.suffix == ".npy":
            return {file.stem: np.load(file, allow_pickle=False)}
        if file.suffix == ".json":
            content = json.loads(file.read_text())
            named = content if isinstance(content, dict) else {file.stem: content}
            return {name: np.array(it) for name, it in named.items()}
    except (OSError, ValueError, TypeError, LookupError, EOFError, RecursionError, SafetensorError) as error:
        raise InvalidInputError(f"{file.name} cannot be read: {error}", "check the file") from error
    raise InvalidInputError(f"{file.name} is neither .json, .npy nor .safetensors", "give one of these")
