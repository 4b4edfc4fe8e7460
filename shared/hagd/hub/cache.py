"""What was fetched from repositories that are named in place of a folder, kept by commit.

An entry appears when it is whole. Where the file system can, it shares its bytes with the library's own cache.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

from hagd.artifacts.folders import cache_folder
from hagd.errors import InvalidInputError
from hagd.hub.download import Listing, list_files
from hagd.hub.names import Kind, Source, is_commit


def cached(source: Source, kind: Kind, fill: Callable[[Listing, Path], None], *, variant: str = "") -> Path:
    """Give the folder of a source, fetched once; one that is named by its commit needs no network from then on.

    Args:
        fill: makes the entry from a listing; it must appear whole.
        variant: what else decides which files an entry holds.

    Raises: as `list_files` and `fill`.
    """
    if is_commit(source.revision) and (entry := _entry(source, kind, str(source.revision), variant)).is_dir():
        return entry / source.folder
    listing = list_files(source, kind)
    entry = _entry(source, kind, listing.commit, variant)
    if not entry.is_dir():
        try:
            fill(listing, entry)
        except InvalidInputError:
            # Another process may have put the same there first.
            if not entry.is_dir():
                raise
    return entry / source.folder


def _entry(source: Source, kind: Kind, commit: str, variant: str) -> Path:
    """Give where an entry lies. It ends in the repository's name, which formats and messages look at."""
    owner, _, name = source.repository.partition("/")
    part = hashlib.sha256(f"{source.folder} {variant}".encode()).hexdigest()[:12]
    return cache_folder() / "hub" / f"{kind}s" / owner / f"{commit}-{part}" / name
