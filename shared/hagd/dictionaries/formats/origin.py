"""Where a folder was pulled from: a record beside its files, `hub.json`, which no tool but ours reads."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hagd.dictionaries.formats.files import Folder
from hagd.errors import InvalidInputError
from hagd.hub.names import is_commit, parse_source

if TYPE_CHECKING:
    from hagd.hub.download import Listing

RECORD: Final = "hub.json"
SCHEMA: Final = "hagd.hub/v1"


def write_record(folder: Path, listing: "Listing", names: list[str], format_name: str) -> None:
    """Write down which files of which commit were pulled; the same ones always give the same bytes."""
    source = listing.source
    files = {name: {"bytes": listing.files[name].size_bytes, "digest": listing.files[name].digest} for name in names}
    content = {
        "schema": SCHEMA,
        "repository": source.repository,
        "folder": source.folder,
        "commit": listing.commit,
        "format": format_name,
        "files": files,
    }
    (folder / RECORD).write_text(json.dumps(content, indent=2) + "\n")


def origin_of(folder: Folder) -> str | None:
    """Give repository and commit that a folder was pulled from; None where no record says so.

    Raises:
        InvalidInputError, UnknownNameError: there is a record that is damaged.
    """
    if not folder.has(RECORD):
        return None
    record = folder.json(RECORD)
    named = [record.get(name) for name in ("repository", "commit", "folder")]
    repository, commit, inner = (it if isinstance(it, str) else "" for it in named)
    if record.get("schema") != SCHEMA or not is_commit(commit):
        raise InvalidInputError(f"{RECORD} is no record of a pull", "delete it, or pull again")
    return f"{parse_source(f'{repository}/{inner}')} at {commit}"
