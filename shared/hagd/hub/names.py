"""How repositories are named, and which names of files are taken from a listing. Loads without the hub's library."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, Literal

from hagd.errors import InvalidInputError, UnknownNameError

Kind = Literal["model", "dataset"]
PREFIX: Final = "hub:"
"""What tells a repository from a folder of this machine."""
_REPOSITORY: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)
_REVISION: Final = re.compile(r"[A-Za-z0-9_][\w./+-]{0,199}", re.ASCII)
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
LONGEST_NAME: Final = 255
"""Bytes of one part of a path, as file systems have it."""
LONGEST_PATH: Final = 1024
"""Bytes of a path in a repository, which leaves room for the folder that it is put into."""


@dataclass(frozen=True)
class Source:
    """A repository, or a folder of one, at a revision."""

    repository: str
    """OWNER/NAME."""
    folder: str = ""
    """A folder in it; empty for all of it."""
    revision: str | None = None
    """Branch, tag or commit; None for the main branch."""

    def __str__(self) -> str:
        inner = f"/{self.folder}" if self.folder else ""
        return f"{self.repository}{inner}" + (f"@{self.revision}" if self.revision else "")


def is_hub(text: str) -> bool:
    """Say whether a text names a repository; a folder of that name is given as `./hub:...`."""
    return text.startswith(PREFIX)


def parse_source(text: str, revision: str | None = None) -> Source:
    """Read `OWNER/NAME`, `OWNER/NAME/FOLDER` or either with `@REVISION`, with or without `hub:` before it.

    Args:
        revision: a revision that was given beside the text.

    Raises:
        UnknownNameError: it has another form, or the revision is given twice.
    """
    name, at, inner = text.removeprefix(PREFIX).partition("@")
    if at and revision is not None:
        raise UnknownNameError(f"{text!r} and {revision!r} both give a revision", "give it once")
    chosen = inner if at else revision
    parts = name.rstrip("/").split("/")
    repository, folder = "/".join(parts[:2]), "/".join(parts[2:])
    if not _REPOSITORY.fullmatch(repository) or ".." in repository or "--" in repository:
        raise UnknownNameError(
            f"{text[:200]!r} names no repository of the hub",
            "write OWNER/NAME, or OWNER/NAME/FOLDER for a part of it",
        )
    if chosen is not None and (not _REVISION.fullmatch(chosen) or ".." in chosen):
        raise UnknownNameError(f"{chosen[:200]!r} is no revision", "give a branch, a tag or a commit")
    if folder:
        try:
            check_path(folder)
        except InvalidInputError as error:
            raise UnknownNameError(error.message, "give a folder as the repository's page shows it") from error
    return Source(repository, folder, chosen)


def is_commit(revision: str | None) -> bool:
    """Say whether a revision is a commit, which never moves."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def check_path(name: str) -> None:
    """Refuse a name that would leave the folder that it is put into, or that no file system takes.

    Raises:
        InvalidInputError: it is one.
    """
    parts = name.split("/")
    odd = any(part in ("", ".", "..") for part in parts) or any(map(_is_odd, name))
    if (
        odd
        or len(name.encode(errors="replace")) > LONGEST_PATH
        or max(len(part.encode(errors="replace")) for part in parts) > LONGEST_NAME
    ):
        raise InvalidInputError(
            f"{name[:200]!r} is no name of a file below a folder", "tell the owner of the repository; nothing was kept"
        )


def _is_odd(character: str) -> bool:
    """Say whether a character separates folders elsewhere, controls a terminal, or is half of a pair of surrogates."""
    return character == "\\" or ord(character) < 32 or "\ud800" <= character <= "\udfff"


def below(name: str, folder: str) -> str | None:
    """Give the name of a file as seen from a folder; None if it lies elsewhere."""
    path = PurePosixPath(name)
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else None
