"""A store that says what is asked of it: calls, bytes, time and errors as metrics, large puts as spans."""

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from hagd.artifacts.reference import ArtifactRef
from hagd.artifacts.store import ArtifactStore, Pieces, StoredObject
from hagd.errors import HagdError
from hagd.telemetry.metrics import STORE_BYTES, STORE_ERRORS, STORE_REQUESTS, STORE_SECONDS, Meter, SilentMeter
from hagd.telemetry.tracing import span

LARGE_BYTES: Final = 1 << 20
"""Puts of at least so many bytes are worth a span."""


@dataclass(frozen=True)
class ObservedStore:
    """An `ArtifactStore` around another one."""

    inner: ArtifactStore
    meter: Meter = field(default_factory=SilentMeter)

    @property
    def location(self) -> str:
        return self.inner.location

    def put_blob(self, data: bytes | Pieces, media_type: str) -> ArtifactRef:
        with self._call("put_blob"):
            # Of a blob that comes in pieces nobody knows the size before.
            if isinstance(data, bytes) and len(data) < LARGE_BYTES:
                ref = self.inner.put_blob(data, media_type)
            else:
                with span("store put", media_type=media_type) as large:
                    ref = self.inner.put_blob(data, media_type)
                    large.set(bytes=ref.bytes, sha256=ref.sha256)
            self.meter.add(STORE_BYTES, ref.bytes, operation="put_blob")
            return ref

    def get_blob(self, ref: ArtifactRef) -> bytes:
        with self._call("get_blob"):
            data = self.inner.get_blob(ref)
            self.meter.add(STORE_BYTES, len(data), operation="get_blob")
            return data

    def stream_blob(self, ref: ArtifactRef) -> Iterator[bytes]:
        with self._call("stream_blob"):
            for piece in self.inner.stream_blob(ref):
                self.meter.add(STORE_BYTES, len(piece), operation="stream_blob")
                yield piece

    def has_blob(self, ref: ArtifactRef) -> bool:
        with self._call("has_blob"):
            return self.inner.has_blob(ref)

    def check_blob(self, ref: ArtifactRef) -> bool:
        with self._call("check_blob"):
            return self.inner.check_blob(ref)

    def delete_blob(self, ref: ArtifactRef) -> None:
        with self._call("delete_blob"):
            self.inner.delete_blob(ref)

    def blob_put_at(self, ref: ArtifactRef) -> float | None:
        with self._call("blob_put_at"):
            return self.inner.blob_put_at(ref)

    def list_blobs(self) -> Iterator[tuple[str, int]]:
        with self._call("list_blobs"):
            yield from self.inner.list_blobs()

    def read(self, key: str) -> StoredObject | None:
        with self._call("read"):
            return self.inner.read(key)

    def put_if_absent(self, key: str, data: bytes) -> str | None:
        with self._call("put_if_absent"):
            return self.inner.put_if_absent(key, data)

    def replace(self, key: str, data: bytes, etag: str) -> str | None:
        with self._call("replace"):
            return self.inner.replace(key, data, etag)

    def delete(self, key: str) -> None:
        with self._call("delete"):
            self.inner.delete(key)

    def folders(self, folder: str, after: str = "", limit: int | None = None) -> tuple[str, ...]:
        with self._call("folders"):
            return self.inner.folders(folder, after, limit)

    def list(self, prefix: str) -> list[str]:
        with self._call("list"):
            return self.inner.list(prefix)

    @contextmanager
    def _call(self, operation: str) -> Generator[None]:
        began = time.perf_counter()
        self.meter.add(STORE_REQUESTS, operation=operation)
        try:
            yield
        except HagdError as error:
            self.meter.add(STORE_ERRORS, operation=operation, kind=error.kind)
            raise
        finally:
            self.meter.observe(STORE_SECONDS, time.perf_counter() - began, operation=operation)
