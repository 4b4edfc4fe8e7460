"""The port behind which bytes lie: blobs named by their digest, and small objects with conditional writes.

Blobs never change, so they need no conditions. Everything that several processes may race for (manifests, leases,
markers, outcomes) is a small object, and its races are settled by `put_if_absent` and `replace`.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from hagd.artifacts.document import Document
from hagd.artifacts.reference import ArtifactRef
from hagd.errors import InvalidInputError

_SEGMENT: Final = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_LARGEST_WHOLE_BYTES: Final = 1 << 25
"""Up to here a document is looked for before it is written, which pieces cannot be."""

Pieces = Callable[[], Iterable[bytes]]
"""Gives the bytes of a blob in pieces, the same whenever it is called."""


@dataclass(frozen=True)
class StoredObject:
    """A small object as it was read."""

    data: bytes
    etag: str
    """Changes with every change of the data; what `replace` compares."""


class ArtifactStore(Protocol):
    """Where artifacts, manifests, leases and run state lie. Keys are `[a-z0-9][a-z0-9_.-]*` joined by `/`."""

    @property
    def location(self) -> str:
        """Give the address from which `open_store` opens the same store in another process."""
        ...

    def put_blob(self, data: bytes | Pieces, media_type: str) -> ArtifactRef:
        """Keep a blob, given whole or in pieces; durable on return. Heals a damaged copy of the same blob.

        Pieces may be asked for twice, so that what is too large for memory needs no room beside it: its digest, which
        is its name, is known once all of it was seen.

        Raises:
            CorruptArtifactError: the pieces were others the second time.
            StoreFullError: no room; nothing half-written can be read.
        """
        ...

    def get_blob(self, ref: ArtifactRef) -> bytes:
        """Give the bytes of a blob, checked against its digest.

        Raises:
            ArtifactNotFoundError: there is none.
            CorruptArtifactError: the bytes do not match the digest.
        """
        ...

    def stream_blob(self, ref: ArtifactRef) -> Iterator[bytes]:
        """Give the bytes of a blob in pieces, of which only one is in memory at a time.

        The digest is known to match only once the last piece was given and the iterator has ended without an error.

        Raises:
            ArtifactNotFoundError, CorruptArtifactError: as `get_blob`.
        """
        ...

    def has_blob(self, ref: ArtifactRef) -> bool:
        """Say whether a blob of that digest and size is there, without reading it."""
        ...

    def check_blob(self, ref: ArtifactRef) -> bool:
        """Say whether the blob is there and whole, reading all of it."""
        ...

    def delete_blob(self, ref: ArtifactRef) -> None:
        """Remove a blob; quiet when there is none."""
        ...

    def blob_put_at(self, ref: ArtifactRef) -> float | None:
        """Give when a blob was last put, was it there before or not; None when there is none.

        In seconds since the epoch, by the clock of the store, which may be some minutes off.
        """
        ...

    def list_blobs(self) -> Iterator[tuple[str, int]]:
        """Give the digest and the size in bytes of every blob, in no order."""
        ...

    def read(self, key: str) -> StoredObject | None:
        """Give a small object, or None."""
        ...

    def put_if_absent(self, key: str, data: bytes) -> str | None:
        """Write a small object unless one is there; give its etag, or None when somebody was first."""
        ...

    def replace(self, key: str, data: bytes, etag: str) -> str | None:
        """Write over an object that still has `etag`; give the new etag, or None when it has changed."""
        ...

    def delete(self, key: str) -> None:
        """Remove a small object; quiet when there is none."""
        ...

    def list(self, prefix: str) -> list[str]:
        """Give the keys that start with `prefix`, sorted."""
        ...

    def folders(self, folder: str, after: str = "", limit: int | None = None) -> tuple[str, ...]:
        """Give the names of the folders in `folder` in the order of the keys below them: at most `limit` after `after`.

        A folder is there while a key below it is, or for a moment longer. Keys below it are not read.
        """
        ...


def checked_key(key: str) -> str:
    """Give a key as it is.

    Raises:
        InvalidInputError: it is none, or could leave the store.
    """
    for segment in key.split("/"):
        if not _SEGMENT.fullmatch(segment) or ".." in segment:
            raise InvalidInputError(f"{key!r} is no key of a store", "use [a-z0-9][a-z0-9_.-]* joined by '/'")
    return key


def put_document(store: ArtifactStore, document: Document) -> ArtifactRef:
    """Keep a document; equal documents get equal references. A large one is never in memory as bytes."""
    if document.tensor_bytes > _LARGEST_WHOLE_BYTES:
        return store.put_blob(document.pieces, document.media_type)
    return store.put_blob(document.encode(), document.media_type)


def get_document(store: ArtifactStore, ref: ArtifactRef) -> Document:
    """Give a document, checked against its digest.

    Raises:
        ArtifactNotFoundError, CorruptArtifactError: as `ArtifactStore.get_blob`.
    """
    return Document.decode(store.get_blob(ref))
