"""A run folder: what `--out` names, and what `hagd show` opens.

hagd-run.json    marker: schema version, and where the artifacts lie
hagd-run.lock    held by the process that works here; the lock dies with it
state/           run state
store/           artifacts, unless a shared store is used
events.sqlite    the event log
worker.log       what workers print
"""

import contextlib
import errno
import fcntl
import json
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hagd.artifacts.filesystem import FilesystemStore, storage_error
from hagd.errors import InvalidInputError, NotARunError, RunLockedError
from hagd.pipeline.runs import RunStore

SCHEMA: Final = "hagd.run/v2"
_MARKER: Final = "hagd-run.json"
_LOCK: Final = "hagd-run.lock"
_FRESH: Final = ".new"
_NO_HARD_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP})


@dataclass(frozen=True)
class RunFolder:
    """A folder that is known to hold a run, or to be ready for one."""

    root: Path
    store_path: Path
    """Where the artifacts lie."""

    @staticmethod
    def prepare(root: Path, store: Path | None = None) -> "RunFolder":
        """Open a run folder to work in it, or make a new or empty folder one.

        Raises:
            NotARunError: the folder holds something else, or is of another version.
            InvalidInputError: the run keeps its artifacts elsewhere than in `store`.
            StoreFullError, UnavailableError: it cannot be made.
        """
        root = root.absolute()
        if not _is_there(root / _MARKER):
            _mark(root, store.absolute() if store else None)
        folder = RunFolder(root, _read_marker(root))
        if store is not None and folder.store_path != store.absolute():
            raise InvalidInputError(
                f"the run in {root} keeps its artifacts in {folder.store_path}, not in {store}",
                "leave the store out (--store, HAGD_STORE), or choose another folder",
            )
        return folder

    @staticmethod
    def open(root: Path) -> "RunFolder":
        """Open a folder in which a run was started, to read it.

        Raises:
            NotARunError: it holds no run, one of another version, or one that is half written.
        """
        root = root.absolute()
        if not _is_there(root) or not root.is_dir():
            raise NotARunError(f"there is no folder {root}", "give the folder that `--out` named")
        if not (root / _MARKER).exists():
            raise NotARunError(f"{root} is not a run: it has no {_MARKER}", "give the folder that `--out` named")
        folder = RunFolder(root, _read_marker(root))
        if not (folder.store_path / "objects").is_dir() or not (root / "state" / "objects" / "runs").is_dir():
            raise NotARunError(f"the run in {root} is half written", "repeat the command that made it")
        return folder

    @property
    def log_path(self) -> Path:
        return self.root / "events.sqlite"

    @property
    def worker_log_path(self) -> Path:
        return self.root / "worker.log"

    def open_store(self, *, create: bool = True) -> FilesystemStore:
        """Open the artifact store; without `create` nothing in the folder is changed."""
        return FilesystemStore(self.store_path, create=create)

    def open_runs(self, *, create: bool = True) -> RunStore:
        """Open the run state; without `create` nothing in the folder is changed."""
        return RunStore(FilesystemStore(self.root / "state", create=create))

    def lock(self) -> "FolderLock":
        """Take the sole right to work in the folder.

        Raises:
            RunLockedError: another process has it; the message names its id.
        """
        return FolderLock(self.root)

    def is_active(self) -> bool:
        """Say whether a process works in the folder now; a run that goes on without one was interrupted."""
        try:
            with (self.root / _LOCK).open("rb") as stream:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False


class FolderLock:
    """An advisory lock of the operating system, which ends with its process however that ends."""

    def __init__(self, root: Path) -> None:
        try:
            self._stream = (root / _LOCK).open("a+")
        except OSError as error:
            raise storage_error(error, root) from error
        if not self._take():
            self._stream.seek(0)
            holder = self._stream.read().strip() or "unknown"
            self._stream.close()
            raise RunLockedError(
                f"process {holder} is working in {root}", "wait for it, stop it, or choose another folder"
            )
        self._stream.truncate(0)
        self._stream.write(str(os.getpid()))
        self._stream.flush()

    def _take(self) -> bool:
        # More than one try, because `is_active` of another process holds the lock for an instant.
        for _ in range(5):
            try:
                fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.02)
            else:
                return True
        return False

    def release(self) -> None:
        """Give the right back."""
        self._stream.close()


def is_run(root: Path) -> bool:
    """Say whether a folder calls itself a run, readable or not."""
    return _is_there(root / _MARKER)


def _is_there(path: Path) -> bool:
    """Say whether a path exists.

    Raises:
        InvalidInputError: it cannot even be a path here.
    """
    try:
        return path.exists()
    except OSError as error:
        raise InvalidInputError(
            f"{str(path)[:80]!r}... cannot be a path: {error.strerror}", "choose a shorter one"
        ) from error


def _mark(root: Path, store: Path | None) -> None:
    """Make a folder a run folder. Of several makers at once the first wins, and its marker appears whole."""
    if root.exists() and not root.is_dir():
        raise NotARunError(f"{root} is a file, not a run folder", "choose another folder")
    if root.is_dir() and _belongs_to_something_else(root):
        raise NotARunError(f"{root} is not empty and is not a run: it has no {_MARKER}", "choose another folder")
    content = {"schema": SCHEMA, "store": str(store) if store else "store"}
    fresh = root / f"{_MARKER}.{secrets.token_hex(8)}{_FRESH}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        try:
            with fresh.open("x") as stream:
                stream.write(json.dumps(content))
                stream.flush()
                os.fsync(stream.fileno())
            _publish_first(fresh, root / _MARKER)
        finally:
            fresh.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(error, root) from error


def _belongs_to_something_else(root: Path) -> bool:
    """Look for files that are not of a run in the making. A maker leaves its marker before any other file, so the
    marker is looked for after the files: who sees the files of a faster maker sees its marker too."""
    foreign = any(
        path.name != _LOCK and not (path.name.startswith(_MARKER) and path.name.endswith(_FRESH))
        for path in root.iterdir()
    )
    return foreign and not (root / _MARKER).exists()


def _publish_first(fresh: Path, marker: Path) -> None:
    """Give a file its name unless another was faster; the name then stays that of the other."""
    with contextlib.suppress(FileExistsError):
        try:
            os.link(fresh, marker)
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            # Then the last maker wins, which changes nothing where all want the same store.
            fresh.replace(marker)


def _read_marker(root: Path) -> Path:
    path = root / _MARKER
    try:
        content: Any = json.loads(path.read_bytes())
        schema, store = str(content["schema"]), str(content["store"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NotARunError(f"{path} is half written or not ours", "choose another folder") from error
    if schema != SCHEMA:
        raise NotARunError(
            f"the run in {root} is of version {schema!r}, this release reads {SCHEMA!r}",
            "use the release that made it, or choose another folder",
        )
    return root / store
