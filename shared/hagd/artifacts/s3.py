"""The artifact store in a bucket of an S3 server: MinIO, AWS and others with atomic conditional writes.

    [prefix/]blobs/<2 hex>/<62 hex>   content-addressed, never changed
    [prefix/]objects/<key>            small objects; races are settled by the server, through If-None-Match and If-Match

A blob in pieces is gone through twice: for its digest, which is its name, and to be sent. The server gives it that name
only once all of it has come and was the same again, so nothing half-written ever has one. Etags of large blobs are no
digest of theirs, so every blob is hashed on its way in and out.
"""

import hashlib
import io
from collections.abc import Iterator
from itertools import islice
from typing import BinaryIO, Final, cast

from minio.credentials.providers import Provider
from minio.error import S3Error
from urllib3.exceptions import HTTPError

from hagd.artifacts.reference import ArtifactRef
from hagd.artifacts.s3_client import ABSENT, S3Connection, S3Settings
from hagd.artifacts.store import Pieces, StoredObject, checked_key
from hagd.errors import ArtifactNotFoundError, CorruptArtifactError

_PIECE_BYTES: Final = 1 << 20
_PART_BYTES: Final = 6 << 20
_PARTS_AT_ONCE: Final = 3
_RESUMPTIONS: Final = 3


class S3Store:
    """An `ArtifactStore` in a bucket, shared by any number of processes of any number of machines."""

    def __init__(
        self, settings: S3Settings, credentials: Provider | None = None, *, create: bool = True, probe: bool = True
    ) -> None:
        """Open the bucket, and make it unless `create` is false.

        Args:
            settings: where it is.
            credentials: the keys; those of the environment when None.
            create: whether a missing bucket is made.
            probe: whether to try conditional writes first; only for who knows that another process did.

        Raises:
            InvalidInputError: the address is none, or the server ignores the conditions of writes.
            UnavailableError, StoreFullError: the server.
        """
        self._connection = S3Connection(settings, credentials)
        self._client, self._bucket = self._connection.client, settings.bucket
        self._prefix = f"{settings.prefix}/" if settings.prefix else ""
        if probe:
            self._connection.open_bucket(create=create)
            self._connection.probe(f"{self._prefix}probes/")

    @property
    def location(self) -> str:
        return self._connection.settings.location

    def put_blob(self, data: bytes | Pieces, media_type: str) -> ArtifactRef:
        if isinstance(data, bytes):
            ref = ArtifactRef(hashlib.sha256(data).hexdigest(), len(data), media_type)
            self._upload(io.BytesIO(data), ref)
            return ref
        digest, size = hashlib.sha256(), 0
        for piece in data():
            digest.update(piece)
            size += len(piece)
        ref = ArtifactRef(digest.hexdigest(), size, media_type)
        self._upload(cast(BinaryIO, _Sent(data, ref)), ref)
        return ref

    def get_blob(self, ref: ArtifactRef) -> bytes:
        whole = io.BytesIO()
        for piece in self.stream_blob(ref):
            whole.write(piece)
        return whole.getvalue()

    def stream_blob(self, ref: ArtifactRef) -> Iterator[bytes]:
        digest, size = hashlib.sha256(), 0
        for piece in self._download(ref):
            digest.update(piece)
            size += len(piece)
            yield piece
        if size != ref.bytes or digest.hexdigest() != ref.sha256:
            raise self._damaged(ref)

    def has_blob(self, ref: ArtifactRef) -> bool:
        try:
            with self._connection.translated():
                return self._client.stat_object(self._bucket, self._blob_name(ref)).size == ref.bytes
        except S3Error:
            return False

    def check_blob(self, ref: ArtifactRef) -> bool:
        try:
            for _ in self.stream_blob(ref):
                pass
        except (ArtifactNotFoundError, CorruptArtifactError):
            return False
        return True

    def delete_blob(self, ref: ArtifactRef) -> None:
        self._remove(self._blob_name(ref))

    def blob_put_at(self, ref: ArtifactRef) -> float | None:
        try:
            with self._connection.translated():
                put_at = self._client.stat_object(self._bucket, self._blob_name(ref)).last_modified
        except S3Error:
            return None
        return None if put_at is None else put_at.timestamp()

    def list_blobs(self) -> Iterator[tuple[str, int]]:
        base = f"{self._prefix}blobs/"
        with self._connection.translated():
            for found in self._client.list_objects(self._bucket, base, recursive=True):
                if found.object_name and not found.is_dir:
                    yield found.object_name.removeprefix(base).replace("/", ""), found.size or 0

    def read(self, key: str) -> StoredObject | None:
        there = self._connection.read(self._object_name(key))
        return None if there is None else StoredObject(*there)

    def put_if_absent(self, key: str, data: bytes) -> str | None:
        return self._connection.put_if(self._object_name(key), data, {"If-None-Match": "*"})

    def replace(self, key: str, data: bytes, etag: str) -> str | None:
        return self._connection.put_if(self._object_name(key), data, {"If-Match": f'"{etag}"'})

    def delete(self, key: str) -> None:
        self._remove(self._object_name(key))

    def list(self, prefix: str) -> list[str]:
        base = f"{self._prefix}objects/"
        with self._connection.translated():
            found = self._client.list_objects(self._bucket, f"{base}{prefix}", recursive=True)
            return sorted(it.object_name.removeprefix(base) for it in found if it.object_name and not it.is_dir)

    def folders(self, folder: str, after: str = "", limit: int | None = None) -> tuple[str, ...]:
        base = f"{self._prefix}objects/{checked_key(folder)}/"
        # Everything below the folder `after` begins with its name and a slash, and "0" is what follows a slash.
        start = f"{base}{after}0" if after else None
        with self._connection.translated():
            found = self._client.list_objects(self._bucket, base, start_after=start)
            names = (it.object_name.removeprefix(base) for it in found if it.object_name and it.is_dir)
            return tuple(islice((name[:-1] for name in names if not after or name > f"{after}/"), limit))

    def _upload(self, stream: BinaryIO, ref: ArtifactRef) -> None:
        """Send a blob under its name, in parts when it is large; what was there is written over, which heals it."""
        with self._connection.translated():
            # The client reads no further ahead than it has parts under way, so a few parts are in memory.
            self._client.put_object(
                self._bucket,
                self._blob_name(ref),
                stream,
                ref.bytes,
                ref.media_type,
                part_size=_PART_BYTES,
                num_parallel_uploads=_PARTS_AT_ONCE,
            )

    def _download(self, ref: ArtifactRef) -> Iterator[bytes]:
        """Give the pieces of a blob, not more than its size says; go on where a connection broke off.

        Raises:
            ArtifactNotFoundError: there is none.
            CorruptArtifactError: it has another size.
            UnavailableError: the server does not answer.
        """
        size, breaks = 0, 0
        with self._connection.translated():
            while True:
                try:
                    for piece in self._pieces(ref, size):
                        size += len(piece)
                        yield piece
                    return
                except S3Error as error:
                    if error.code in ABSENT:
                        raise self._missing(ref) from error
                    raise
                except HTTPError:
                    breaks += 1
                    if breaks > _RESUMPTIONS:
                        raise

    def _pieces(self, ref: ArtifactRef, start: int) -> Iterator[bytes]:
        if 0 < start >= ref.bytes:
            return
        answer = self._client.get_object(self._bucket, self._blob_name(ref), offset=start)
        try:
            if int(answer.headers.get("Content-Length", ref.bytes - start)) != ref.bytes - start:
                raise self._damaged(ref)
            yield from answer.stream(_PIECE_BYTES)
        finally:
            # A connection with unread bytes is of no use to anybody else.
            answer.close()
            answer.release_conn()

    def _remove(self, name: str) -> None:
        with self._connection.translated():
            try:
                self._client.remove_object(self._bucket, name)
            except S3Error as error:
                if error.code not in ABSENT:
                    raise

    def _missing(self, ref: ArtifactRef) -> ArtifactNotFoundError:
        return ArtifactNotFoundError(
            f"artifact {ref.sha256[:12]} is not in the store {self.location}", "repeat the command: it is recomputed"
        )

    def _damaged(self, ref: ArtifactRef) -> CorruptArtifactError:
        return CorruptArtifactError(
            f"artifact {ref.sha256[:12]} in the store {self.location} does not match its digest: "
            f"expected {ref.bytes} bytes",
            "repeat the command: it is recomputed",
        )

    def _blob_name(self, ref: ArtifactRef) -> str:
        return f"{self._prefix}blobs/{ref.sha256[:2]}/{ref.sha256[2:]}"

    def _object_name(self, key: str) -> str:
        return f"{self._prefix}objects/{checked_key(key)}"


class _Sent:
    """The pieces of a blob as the client reads them; the last bytes come once all were seen to be the same."""

    def __init__(self, pieces: Pieces, ref: ArtifactRef) -> None:
        self._pieces, self._ref = iter(pieces()), ref
        self._digest, self._left, self._rest = hashlib.sha256(), ref.bytes, bytearray()

    def read(self, size: int) -> bytes:
        while self._left > 0 and len(self._rest) < size:
            piece = next(self._pieces, b"")
            self._digest.update(piece)
            self._left -= len(piece)
            self._rest += piece
            if self._left <= 0 or not piece:
                self._require_same()
        given = bytes(memoryview(self._rest)[:size])
        del self._rest[:size]
        return given

    def _require_same(self) -> None:
        if self._left != 0 or self._digest.hexdigest() != self._ref.sha256:
            raise CorruptArtifactError("a blob changed while it was written", "let nothing else write to its source")
