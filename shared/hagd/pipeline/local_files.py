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
