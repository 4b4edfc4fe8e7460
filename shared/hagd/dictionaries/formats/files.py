"""Read the files of a folder that nobody vouches for: size before content, no pickle, nothing that runs code.

Every error names the file as the folder's owner knows it, relative to the folder.
"""

import json
import math
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import yaml
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hagd.errors import InvalidInputError

LARGEST_CONFIG_BYTES = 1 << 20
MOST_EXPANSION = 64
"""How many times its size an archive of weights may unpack to; weights hardly shrink."""
_HEADERS: Mapping[tuple[int, int], Callable[[Any], Any]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
DEEPEST = 4
"""Folders below the given one in which layers are looked for."""
_LAYER = re.compile(r"(?:^|[._-])(?:layers?|h|blocks)[._-](\d+)(?:$|[._-])")


@dataclass(frozen=True)
class Folder:
    """A folder to read from."""

    path: Path
    pickles: bool = False
    """Whether files that torch has pickled may be opened, by its reader for tensors alone."""

    def has(self, name: str) -> bool:
        return (self.path / name).is_file()

    def has_tensors(self, name: str) -> bool:
        """Say whether a safetensors file is there, or a pickle in its place."""
        return self.has(name) or bool(self._pickles_for(name))

    def below(self, *names: str) -> list["Folder"]:
        """Give this folder and those below it that hold all of these files, pickles in place of safetensors included.

        Links to folders are not followed.
        """
        return [it for it in self._tree(DEEPEST) if all(it.has_tensors(name) for name in names)]

    def _tree(self, depth: int) -> list["Folder"]:
        inner = sorted(path for path in self.path.iterdir() if path.is_dir() and not path.is_symlink()) if depth else []
        return [self, *(below for path in inner for below in Folder(path, self.pickles)._tree(depth - 1))]

    def count(self, prefix: str) -> int:
        """Count the numbers n for which there is a file `{prefix}n`, whatever its ending."""
        stems = {path.stem.removeprefix(prefix) for path in self.path.glob(f"{prefix}*.*")}
        return sum(stem.isdecimal() for stem in stems)

    def layer(self) -> int:
        """Read the layer off the names of the folder and those it lies in, the innermost that names one.

        Raises:
            InvalidInputError: none does.
        """
        for part in reversed(self.path.resolve().parts):
            if match := _LAYER.search(part):
                return int(match.group(1))
        raise InvalidInputError(
            f"neither the file nor the folder {self.path.name} says which layer it is of",
            "name the folder after its layer, such as layer_3",
        )

    def json(self, name: str) -> Mapping[str, Any]:
        """Read a JSON object.

        Raises:
            InvalidInputError: the file is missing, too long, or holds something else.
        """
        try:
            content = json.loads(self._text(name))
        except (ValueError, RecursionError) as error:
            raise InvalidInputError(f"{name} is not JSON: {error}", "fetch the file again") from error
        return _mapping(content, name)

    def yaml(self, name: str) -> Mapping[str, Any]:
        """Read a YAML mapping, plain values only.

        Raises:
            InvalidInputError: the file is missing, too long, or holds something else.
        """
        try:
            content = yaml.load(self._text(name), _PlainLoader)  # noqa: S506  # it makes plain values alone
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise InvalidInputError(f"{name} is not YAML: {error}", "fetch the file again") from error
        return _mapping(content, name)

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Read every tensor of a safetensors file, or of the pickle in its place if pickles are allowed.

        Raises:
            InvalidInputError: there is no such file, only a pickle that is not allowed, or it is truncated or damaged.
        """
        path = self.path / name
        if not path.is_file():
            return self._pickled(name)
        try:
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
        except (OSError, ValueError, SafetensorError) as error:
            raise InvalidInputError(
                f"{name} is no safetensors file: {error}", "it is truncated or damaged: fetch it again"
            ) from error

    def arrays(self, name: str) -> dict[str, Tensor]:
        """Read every array of an npz file; arrays of Python objects are refused.

        Raises:
            InvalidInputError: the file is missing, truncated, damaged, or holds something else than numbers.
        """
        try:
            _check_unpacked(self.path / name)
            with (self.path / name).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                return {key: torch.from_numpy(np.ascontiguousarray(file[key])) for key in file.files}
        except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error, AttributeError) as error:
            raise InvalidInputError(
                f"{name} is no npz file of numbers: {error}", "it is truncated or damaged: fetch it again"
            ) from error

    def _pickles_for(self, name: str) -> list[str]:
        stem, ending, _ = name.partition(".safetensors")
        return [f"{stem}{pickle}" for pickle in PICKLES if ending and self.has(f"{stem}{pickle}")]

    def _pickled(self, name: str) -> dict[str, Tensor]:
        there = self._pickles_for(name)
        if not there:
            raise InvalidInputError(f"{self.path.name} lacks {name}", "the folder is incomplete: fetch it again")
        if not self.pickles:
            raise InvalidInputError(
                f"{self.path.name} has no {name} but {there[0]}, a pickle, which can run code when opened",
                "save its tensors as safetensors, or pass --unsafe-pickle to `hagd transcoder convert` if you trust "
                "whoever made it",
            )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                content = torch.load(self.path / there[0], map_location="cpu", weights_only=True)
        except Exception as error:  # a restricted unpickler fails in any way that the bytes ask for
            raise InvalidInputError(
                f"{there[0]} holds more than tensors, or is damaged: {type(error).__name__}",
                "save its tensors as safetensors where it was made",
            ) from error
        content = content.get("sae", content) if isinstance(content, dict) else content
        if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
            raise InvalidInputError(f"{there[0]} is no table of tensors", "save it as safetensors where it was made")
        return cast("dict[str, Tensor]", content)

    def _text(self, name: str) -> str:
        path = self.path / name
        try:
            if (size := path.stat().st_size) > LARGEST_CONFIG_BYTES:
                raise InvalidInputError(
                    f"{name} has {size} bytes, more than any config of {LARGEST_CONFIG_BYTES}", "give another folder"
                )
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInputError(f"{name} cannot be read: {error}", "the folder is incomplete") from error


class _PlainLoader(yaml.SafeLoader):
    """Refuses aliases, by which a short file names a value of any size."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not read")
        return super().compose_node(parent, index)


def _check_unpacked(path: Path) -> None:
    """Refuse an archive that unpacks to far more than it is, and arrays larger than what holds them.

    Raises:
        ValueError: it is one.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sum(it.file_size for it in members) > MOST_EXPANSION * path.stat().st_size + LARGEST_CONFIG_BYTES:
            raise ValueError(f"it unpacks to more than {MOST_EXPANSION} times its size")
        for member in members:
            with archive.open(member) as stream:
                version = np.lib.format.read_magic(stream)
                if version not in _HEADERS:
                    raise ValueError(f"{member.filename} is of an unknown version")
                shape, _, dtype = _HEADERS[version](stream)
                if math.prod(shape) * dtype.itemsize > member.file_size:
                    raise ValueError(f"{member.filename} is shorter than it says")


def take(tensors: Mapping[str, Tensor], name: str, where: str) -> Tensor:
    """Give a tensor that a file must hold.

    Raises:
        InvalidInputError: it does not.
    """
    if name not in tensors:
        raise InvalidInputError(
            f"{where} lacks the tensor {name!r}; it holds {', '.join(sorted(tensors)) or 'none'}",
            "the file is incomplete, or of another layout",
        )
    return tensors[name]


def unknown_activation(name: object, known: str) -> InvalidInputError:
    """Give the error about an activation that has no counterpart here."""
    return InvalidInputError(
        f"the activation {name!r} has no counterpart here, known ones: {known}",
        "convert the file to one of them where it was trained",
    )


def _mapping(content: object, name: str) -> Mapping[str, Any]:
    if not isinstance(content, dict):
        raise InvalidInputError(f"{name} holds no table of settings", "the file is damaged, or of another layout")
    return cast("Mapping[str, Any]", content)
