"""The name of a blob, the one thing that stages pass to each other."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hagd.errors import InvalidInputError

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ArtifactRef:
    """The name of a blob: enough to fetch and check it, nothing about where it lies."""

    sha256: str
    bytes: int
    media_type: str

    def to_json(self) -> dict[str, Any]:
        return {"sha256": self.sha256, "bytes": self.bytes, "media_type": self.media_type}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "ArtifactRef":
        """Read what `to_json` gave.

        Raises:
            InvalidInputError: a field is missing or is not what it should be.
        """
        digest, size, media_type = value.get("sha256"), value.get("bytes"), value.get("media_type")
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise InvalidInputError(f"expected 64 lower-case hex digits as sha256, got {digest!r}")
        if not isinstance(size, int) or size < 0 or not isinstance(media_type, str):
            raise InvalidInputError(
                f"artifact {digest[:12]} lacks a size or a media type", "give what put_blob returned"
            )
        return ArtifactRef(digest, size, media_type)


def refs_to_json(refs: Mapping[str, ArtifactRef]) -> dict[str, Any]:
    """Give `{role: reference}` as JSON."""
    return {role: ref.to_json() for role, ref in sorted(refs.items())}


def refs_from_json(value: Mapping[str, Any]) -> dict[str, ArtifactRef]:
    """Read what `refs_to_json` gave."""
    return {role: ArtifactRef.from_json(ref) for role, ref in value.items()}
