"""The artifact store in a folder.

    blobs/<2 hex>/<62 hex>   content-addressed, never changed
    objects/<key>            small objects; conditions are settled under an advisory lock that dies with its holder
    incoming/                bytes on their way in; what a killed process left here is never read

Every write goes to `incoming/`, is synced, and is then renamed, so that a reader meets a whole file or none.
The locks need a local POSIX file system.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from hagd.artifacts.reference import ArtifactRef
from hagd.artifacts.store import Pieces, StoredObject, checked_key
from hagd.errors import (
    ArtifactNotFoundError,
    CorruptArtifactError,
    HagdError,
    StoreFullError,
    UnavailableError,
)

_CHUNK_BYTES: Final = 1 << 20
_STALE_SECONDS: Final = 3600.0


class FilesystemStore:
    """An `ArtifactStore` in a folder, shared by any number of processes of one machine."""

    def __init__(self, root: Path, *, create: bool = True) -> None:
        """Open the folder, and make it unless `create` is false.

        Raises:
            ArtifactNotFoundError: the folder does not exist and may not be made.
            StoreFullError, UnavailableError: it cannot be made.
        """
        self._root = root.absolute()
        if not create and not (self._root / "objects").is_dir():
            raise ArtifactNotFoundError(f"there is no artifact store in {root}", "give the folder of a run")
        if create:
            with _translated(self._root):
                for name in ("blobs", "objects", "incoming", "locks"):
                    (self._root / name).mkdir(parents=True, exist_ok=True)
                self._sweep()

    @property
    def location(self) -> str:
        return f"file:{self._root}"

    def put_blob(self, data: bytes | Pieces, media_type: str) -> ArtifactRef:
        if isinstance(data, bytes):
            ref = ArtifactRef(hashlib.sha256(data).hexdigest(), len(data), media_type)
            if self.check_blob(ref) and self._is_touched(ref):
                return ref
        digest, size = hashlib.sha256(), 0
        with self._incoming() as (stream, path):
            for chunk in [data] if isinstance(data, bytes) else data():
                stream.write(chunk)
                digest.update(chunk)
                size += len(chunk)
            ref = ArtifactRef(digest.hexdigest(), size, media_type)
            # Always renamed over what may be there: equal bytes when it is whole, a cure when it is not.
            _publish(stream, path, self._blob_path(ref))
        return ref

    def get_blob(self, ref: ArtifactRef) -> bytes:
        with self._open_blob(ref) as stream:
            data = stream.read()
        self._check(ref, len(data), hashlib.sha256(data).hexdigest())
        return data

    def stream_blob(self, ref: ArtifactRef) -> Iterator[bytes]:
        digest, size = hashlib.sha256(), 0
        with self._open_blob(ref) as stream:
            while piece := stream.read(_CHUNK_BYTES):
                digest.update(piece)
                size += len(piece)
                yield piece
        self._check(ref, size, digest.hexdigest())

    def has_blob(self, ref: ArtifactRef) -> bool:
        try:
            return self._blob_path(ref).stat().st_size == ref.bytes
        except FileNotFoundError:
            return False

    def check_blob(self, ref: ArtifactRef) -> bool:
        if not self.has_blob(ref):
            return False
        with self._blob_path(ref).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == ref.sha256

    def delete_blob(self, ref: ArtifactRef) -> None:
        with _translated(self._root):
            self._blob_path(ref).unlink(missing_ok=True)

    def blob_put_at(self, ref: ArtifactRef) -> float | None:
        try:
            return self._blob_path(ref).stat().st_mtime
        except FileNotFoundError:
            return None

    def list_blobs(self) -> Iterator[tuple[str, int]]:
        for path in (self._root / "blobs").glob("*/*"):
            with contextlib.suppress(FileNotFoundError):
                yield path.parent.name + path.name, path.stat().st_size

    def read(self, key: str) -> StoredObject | None:
        try:
            data = self._object_path(key).read_bytes()
        except FileNotFoundError:
            return None
        return StoredObject(data, hashlib.sha256(data).hexdigest())

    def put_if_absent(self, key: str, data: bytes) -> str | None:
        path = self._object_path(key)
        if path.exists():
            return None
        return self._write_if(key, data, None)

    def replace(self, key: str, data: bytes, etag: str) -> str | None:
        return self._write_if(key, data, etag)

    def delete(self, key: str) -> None:
        with _translated(self._root), self._locked(key):
            self._object_path(key).unlink(missing_ok=True)

    def list(self, prefix: str) -> list[str]:
        base = self._root / "objects"
        # The part after the last slash may end in the middle of a name.
        folder, _, _ = prefix.rpartition("/")
        start = self._object_path(folder) if folder else base
        keys = (path.relative_to(base).as_posix() for path in start.rglob("*") if path.is_file())
        return sorted(key for key in keys if key.startswith(prefix))

    def folders(self, folder: str, after: str = "", limit: int | None = None) -> tuple[str, ...]:
        try:
            with os.scandir(self._object_path(folder)) as entries:
                names = sorted(f"{entry.name}/" for entry in entries if entry.is_dir())
        except FileNotFoundError:
            return ()
        later = [name for name in names if not after or name > f"{after}/"]
        return tuple(name[:-1] for name in later[:limit])

    def _write_if(self, key: str, data: bytes, etag: str | None) -> str | None:
        with self._incoming() as (stream, path):
            stream.write(data)
            with self._locked(key):
                there = self.read(key)
                if (there.etag if there else None) != etag:
                    return None
                _publish(stream, path, self._object_path(key))
        return hashlib.sha256(data).hexdigest()

    @contextlib.contextmanager
    def _incoming(self) -> Generator[tuple[BinaryIO, Path]]:
        path = self._root / "incoming" / secrets.token_hex(16)
        with _translated(self._root):
            try:
                with path.open("xb") as stream:
                    yield stream, path
            finally:
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self, key: str) -> Generator[None]:
        name = hashlib.sha256(key.encode()).hexdigest()[:2]
        with (self._root / "locks" / name).open("ab") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    def _is_touched(self, ref: ArtifactRef) -> bool:
        """Note that a blob was put once more; False when it has just been deleted."""
        with _translated(self._root):
            try:
                os.utime(self._blob_path(ref))
            except FileNotFoundError:
                return False
        return True

    def _sweep(self) -> None:
        # Age, not ownership: a process that is still writing has a young file.
        for path in (self._root / "incoming").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                    path.unlink()

    def _open_blob(self, ref: ArtifactRef) -> BinaryIO:
        try:
            return self._blob_path(ref).open("rb")
        except FileNotFoundError as error:
            raise ArtifactNotFoundError(
                f"artifact {ref.sha256[:12]} is not in the store {self._root}", "repeat the command: it is recomputed"
            ) from error

    def _check(self, ref: ArtifactRef, size: int, digest: str) -> None:
        if size != ref.bytes or digest != ref.sha256:
            raise CorruptArtifactError(
                f"{self._blob_path(ref)} does not match its digest: "
                f"expected {ref.bytes} bytes of sha256 {ref.sha256[:12]}",
                "repeat the command: it is recomputed",
            )

    def _blob_path(self, ref: ArtifactRef) -> Path:
        return self._root / "blobs" / ref.sha256[:2] / ref.sha256[2:]

    def _object_path(self, key: str) -> Path:
        return self._root / "objects" / checked_key(key)


def _publish(stream: BinaryIO, path: Path, target: Path) -> None:
    stream.flush()
    os.fsync(stream.fileno())
    target.parent.mkdir(parents=True, exist_ok=True)
    path.replace(target)
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _translated(root: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise storage_error(error, root) from error


def storage_error(error: OSError, root: Path) -> HagdError:
    """Give the error of the tree for a write that failed."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFullError(
            f"no room left on the device of {root}", "free some space and repeat the command: finished stages are kept"
        )
    return UnavailableError(f"{root} cannot be written: {error.strerror or error}", "check the folder and its rights")
