"""Files and folders that appear when they are whole, and the folder for what can be rebuilt."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from hagd.artifacts.filesystem import storage_error
from hagd.errors import InvalidInputError


def publish_folder(out: Path, write: Callable[[Path], None]) -> None:
    """Fill a folder beside `out` and rename it, so that a half-written one is never read.

    Raises:
        InvalidInputError: there is something at `out`, or it cannot be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=out.parent, prefix=".partial-"))
        try:
            write(partial)
            # What mkdtemp makes is for its owner alone.
            partial.chmod(0o755)
            partial.rename(out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise InvalidInputError(f"{out} cannot be written: {error}", "choose another folder, or free space") from error


def write_whole(text: str, to: Path) -> None:
    """Write text to a file, which has all of it or is as it was; a device or a pipe is written to.

    Raises:
        StoreFullError, UnavailableError: the file cannot be written.
    """
    try:
        to = to.resolve()
        to.parent.mkdir(parents=True, exist_ok=True)
        if to.exists() and not to.is_file():
            to.write_text(text, encoding="utf-8")
            return
        partial = to.with_name(f".{to.name}.{os.getpid()}.partial")
        try:
            partial.write_text(text, encoding="utf-8")
            partial.replace(to)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(error, to) from error


def require_empty(out: Path) -> None:
    """Refuse to write over something.

    Raises:
        InvalidInputError: `out` is a file, a folder with something in it, or cannot be a path.
    """
    try:
        taken = out.exists() and not (out.is_dir() and not any(out.iterdir()))
    except OSError as error:
        raise InvalidInputError(
            f"{str(out)[:60]} cannot be a path: {error.strerror}", "choose another --out"
        ) from error
    if taken:
        raise InvalidInputError(f"{out} is there already", "choose another folder with --out")


def cache_folder() -> Path:
    """Give the folder for what can be rebuilt: `$HAGD_CACHE`, else `hagd` in the user's cache folder."""
    if chosen := os.environ.get("HAGD_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hagd"
