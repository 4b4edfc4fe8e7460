"""Files of this machine that a config names: they count by their content, and where they lie says nothing."""

import hashlib
from pathlib import Path

from hagd.errors import InvalidInputError


def digest_of_file(path: str) -> str:
    """Give sha256 of a file.

    Raises:
        InvalidInputError: it cannot be read.
    """
    try:
        with Path(path).expanduser().open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InvalidInputError(f"{path} cannot be read: {reason}", "check the path") from error


def digest_of_folder(path: str) -> str:
    """Digest the files of a folder, by name and content.

    Raises:
        InvalidInputError: it is no folder, empty, or cannot be read.
    """
    try:
        folder = Path(path).expanduser()
        files = sorted(it for it in folder.rglob("*") if it.is_file()) if folder.is_dir() else []
    except (OSError, RuntimeError) as error:
        raise InvalidInputError(f"{path[:80]} cannot be read: {error}", "check the path") from error
    if not files:
        raise InvalidInputError(f"there are no dictionaries at {path}", "give a folder of dictionaries, or 'neurons'")
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{file.relative_to(folder)} {digest_of_file(str(file))}\n".encode())
    return whole.hexdigest()
