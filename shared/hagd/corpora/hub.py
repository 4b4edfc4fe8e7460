"""Text of a dataset repository of the hub: its tables, lines of JSON and text files, never a script."""

from pathlib import Path
from typing import Final

from hagd.artifacts.folders import publish_folder
from hagd.corpora.sources import JSON_SUFFIXES
from hagd.errors import InvalidInputError
from hagd.hub.cache import cached
from hagd.hub.download import Listing, fetch, place
from hagd.hub.names import below, parse_source

SUFFIXES: Final = (".parquet", ".csv", ".txt", *JSON_SUFFIXES)
MOST_FILES: Final = 1024
MOST_BYTES: Final = 16 << 30
"""Text for which no machine that trains here has the time; who means it gets the files and gives their folder."""


def text_at(name: str) -> Path:
    """Give the folder with the text of `hub:OWNER/NAME[/FOLDER][@REVISION]`, fetched once for each commit.

    Raises:
        InvalidInputError: there is no text, too much of it, or what came is not what was listed.
        UnknownNameError: there is no such repository, folder or revision.
        UnauthenticatedError, PermissionDeniedError, UnavailableError: as the hub answers.
    """
    return cached(parse_source(name), "dataset", _fill)


def _fill(listing: Listing, entry: Path) -> None:
    source = listing.source
    chosen = [
        it for it in listing.files.values() if below(it.name, source.folder) and it.name.lower().endswith(SUFFIXES)
    ]
    size = sum(it.size_bytes for it in chosen)
    if not chosen:
        raise InvalidInputError(f"{source} has no text: no {', '.join(SUFFIXES)}", "name another repository or folder")
    if len(chosen) > MOST_FILES or size > MOST_BYTES:
        raise InvalidInputError(
            f"{source} has {len(chosen)} files of text, {size / 2**30:.1f} GiB; at most {MOST_FILES} files and "
            f"{MOST_BYTES >> 30} GiB are fetched",
            "name a folder of it, as hub:OWNER/NAME/FOLDER, or get the files yourself and give their folder",
        )
    fetched = fetch(listing, sorted(it.name for it in chosen))
    publish_folder(entry, lambda partial: place(fetched, partial, linked=True))
