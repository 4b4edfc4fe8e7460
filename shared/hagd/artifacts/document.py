"""The one artifact format: a JSON document, with tensors beside it when it has any.

With tensors the bytes are a safetensors file whose only metadata entry `hagd` holds the document (one entry,
because safetensors does not order several, and equal content must give equal bytes). Without, plain RFC 8785 JSON.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import rfc8785
from safetensors import SafetensorError
from safetensors.numpy import load

from hagd.artifacts.mapped import let_go
from hagd.errors import CorruptArtifactError, InvalidInputError, NonFiniteError

JSON_TYPE = "application/json"
TENSORS_TYPE = "application/vnd.safetensors"
DTYPES: Final = {
    "uint64": "U64",
    "int64": "I64",
    "float64": "F64",
    "float32": "F32",
    "uint32": "U32",
    "int32": "I32",
    "float16": "F16",
    "uint16": "U16",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
"""What safetensors calls dtypes, in the order in which tensors lie in a file."""
_HEADER_ALIGNMENT: Final = 8
_PIECE_CELLS: Final = 1 << 20


@dataclass(frozen=True)
class Document:
    """JSON content plus named arrays."""

    content: Mapping[str, Any]
    tensors: Mapping[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])

    @property
    def media_type(self) -> str:
        return TENSORS_TYPE if self.tensors else JSON_TYPE

    @property
    def tensor_bytes(self) -> int:
        """Give the bytes of all tensors together."""
        return sum(value.nbytes for value in self.tensors.values())

    def encode(self) -> bytes:
        """Serialise deterministically; errors as of `pieces`."""
        return b"".join(self.pieces())

    def pieces(self) -> Iterator[bytes]:
        """Give what `encode` gives, piece by piece, so that no tensor is in memory twice.

        Raises:
            NonFiniteError: a number or a tensor entry is NaN or infinite.
            InvalidInputError: a tensor is of a dtype that is not kept.
        """
        try:
            text = rfc8785.dumps(dict(self.content))
        except rfc8785.FloatDomainError as error:
            raise NonFiniteError(f"the document holds NaN or infinity: {error}", "give null instead") from error
        if not self.tensors:
            yield text
            return
        order = list(DTYPES)
        for name, value in self.tensors.items():
            if value.dtype.name not in DTYPES:
                raise InvalidInputError(f"tensor {name!r} is of dtype {value.dtype}", f"give one of {', '.join(order)}")
        arrays = sorted(
            ((name, np.ascontiguousarray(value)) for name, value in self.tensors.items()),
            key=lambda it: (order.index(it[1].dtype.name), it[0]),
        )
        yield _header(text.decode(), arrays)
        for name, value in arrays:
            flat = value.reshape(-1)
            for start in range(0, len(flat), _PIECE_CELLS):
                piece = flat[start : start + _PIECE_CELLS]
                if piece.dtype.kind == "f" and not np.isfinite(piece).all():
                    raise NonFiniteError(f"tensor {name!r} holds NaN or infinity", "the stage that made it diverged")
                yield piece.astype(piece.dtype.newbyteorder("<"), copy=False).tobytes()
                let_go(value)

    @staticmethod
    def decode(data: bytes) -> "Document":
        """Read what `encode` wrote.

        Raises:
            CorruptArtifactError: the bytes are neither form.
        """
        try:
            if data[:1] == b"{":
                return Document(json.loads(data))
            header_bytes = int.from_bytes(data[:8], "little")
            header = json.loads(data[8 : 8 + header_bytes])
            return Document(json.loads(header["__metadata__"]["hagd"]), load(data))
        except (ValueError, KeyError, SafetensorError) as error:
            raise CorruptArtifactError(f"not an artifact document: {error}", "recompute the stage") from error


def _header(text: str, arrays: Sequence[tuple[str, np.ndarray]]) -> bytes:
    """Give what stands before the tensors of a safetensors file: its length, then names, shapes and places."""
    header: dict[str, Any] = {"__metadata__": {"hagd": text}}
    at = 0
    for name, value in arrays:
        header[name] = {
            "dtype": DTYPES[value.dtype.name],
            "shape": list(value.shape),
            "data_offsets": [at, at + value.nbytes],
        }
        at += value.nbytes
    written = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    written += b" " * (-len(written) % _HEADER_ALIGNMENT)
    return len(written).to_bytes(8, "little") + written
