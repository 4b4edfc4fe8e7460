"""The one artifact format: a JSON document, with tensors beside it when it has any.

With tensors the bytes are a safetensors file whose only metadata entry `hagd` holds the document (one entry,
because safetensors does not order several, and equal content must give equal bytes). Without, plain RFC 8785 JSON.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import rfc8785
from safetensors import SafetensorError
from safetensors.numpy import load, save

from hagd.errors import CorruptArtifactError, NonFiniteError

JSON_TYPE = "application/json"
TENSORS_TYPE = "application/vnd.safetensors"


@dataclass(frozen=True)
class Document:
    """JSON content plus named arrays."""

    content: Mapping[str, Any]
    tensors: Mapping[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])

    @property
    def media_type(self) -> str:
        return TENSORS_TYPE if self.tensors else JSON_TYPE

    def encode(self) -> bytes:
        """Serialise deterministically.

        Raises:
            NonFiniteError: a number or a tensor entry is NaN or infinite.
        """
        for name, value in self.tensors.items():
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise NonFiniteError(f"tensor {name!r} holds NaN or infinity", "the stage that made it diverged")
        try:
            text = rfc8785.dumps(dict(self.content))
        except rfc8785.FloatDomainError as error:
            raise NonFiniteError(f"the document holds NaN or infinity: {error}", "give null instead") from error
        if not self.tensors:
            return text
        arrays = {name: np.ascontiguousarray(value) for name, value in sorted(self.tensors.items())}
        return save(arrays, metadata={"hagd": text.decode()})

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
