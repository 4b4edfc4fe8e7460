"""Traces in files, where memory would not hold those of all prompts: only what is looked at takes memory.

Files have no names and go with their traces (`hagd.artifacts.mapped`). What is computed is the same to the bit.
"""

import ctypes
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from torch import Tensor, from_numpy

from hagd.artifacts.mapped import let_go, mapped_zeros

_ALIGNED_BYTES: Final = 64


class Spill:
    """A place for tensors; in memory, where they are, or in files of a folder."""

    def __init__(self, folder: Path | None) -> None:
        """Take tensors to files of `folder`, or leave them in memory."""
        self._folder = folder
        self._files: list[np.ndarray] = []
        self._bounds: list[tuple[int, int]] = []

    def keep(self, value: Any) -> Any:
        """Give the same value, made of dataclasses, tuples and mappings, with all its tensors in one file.

        Tensors that lie in a file already stay there.

        Raises:
            OSError: the folder has no room.
        """
        if self._folder is None:
            return value
        found: dict[int, Tensor] = {}
        _collect(value, found)
        fresh = {key: it for key, it in found.items() if not self._has(it)}
        sizes = [-(-it.nbytes // _ALIGNED_BYTES) * _ALIGNED_BYTES for it in fresh.values()]
        file = mapped_zeros((max(1, sum(sizes)),), np.dtype(np.uint8), self._folder)
        moved: dict[int, Tensor] = {}
        start = 0
        for (key, it), size in zip(fresh.items(), sizes, strict=True):
            array = it.detach().contiguous().numpy()
            place = file[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
            place[...] = array
            moved[key] = from_numpy(place)
            start += size
        self._files.append(file)
        self._bounds.append((file.ctypes.data, file.ctypes.data + file.nbytes))
        let_go(file)
        kept = _with(value, moved)
        _return_freed()
        return kept

    def let_go(self) -> None:
        """Give back the memory of what was looked at."""
        for file in self._files:
            let_go(file)

    def _has(self, tensor: Tensor) -> bool:
        return any(first <= tensor.data_ptr() < last for first, last in self._bounds)


def _return_freed() -> None:
    """Ask the C library, if it is one that can be asked, to give back what was freed: between tensors that live on it
    would keep as much as was moved."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _collect(value: Any, found: dict[int, Tensor]) -> None:
    """Gather all tensors of a value, each once."""
    if isinstance(value, Tensor):
        found[id(value)] = value
    for part in _parts(value).values():
        _collect(part, found)


def _with(value: Any, moved: Mapping[int, Tensor]) -> Any:
    """Give a value with other tensors in the place of some."""
    if isinstance(value, Tensor):
        return moved.get(id(value), value)
    parts = {name: _with(part, moved) for name, part in _parts(value).items()}
    if isinstance(value, Mapping):
        return parts
    if isinstance(value, tuple):
        return tuple(parts.values())
    return replace(value, **parts) if parts else value


def _parts(value: Any) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(cast("Mapping[Any, Any]", value))
    if isinstance(value, tuple):
        return dict(enumerate(cast("tuple[Any, ...]", value)))
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return {}
