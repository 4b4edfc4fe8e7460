"""Where dictionaries that somebody names lie: in a folder of this machine, or fetched from the hub into one."""

from pathlib import Path
from typing import Any

from hagd.errors import UsageError
from hagd.hub.names import is_hub
from hagd.pipeline.local_files import digest_of_folder


def named_folder(dictionaries: str) -> dict[str, Any]:
    """Give the folder that a path or `hub:OWNER/NAME[/FOLDER][@REVISION]` names, and the digest of what it holds, as
    fields of a stage that reads it.

    Raises:
        UsageError: the path is empty, or of a home that there is not.
        InvalidInputError: there is no such folder, it is empty, or cannot be read.
        UnknownNameError, UnauthenticatedError, PermissionDeniedError, UnavailableError: as the hub answers.
    """
    folder = _folder_of(dictionaries).absolute()
    return {"dictionaries": str(folder), "dictionaries_digest": digest_of_folder(str(folder))}


def _folder_of(dictionaries: str) -> Path:
    if not is_hub(dictionaries):
        if not dictionaries.strip():
            raise UsageError("the dictionaries have no name", "give a folder, or hub:OWNER/NAME")
        try:
            return Path(dictionaries).expanduser()
        except RuntimeError as error:
            raise UsageError(f"{dictionaries[:80]} is no path: {error}", "give a folder, or hub:OWNER/NAME") from error
    # The formats, which tell what a repository is of, load torch.
    from hagd.dictionaries.formats.sharing import dictionaries_at  # noqa: PLC0415

    return dictionaries_at(dictionaries)
