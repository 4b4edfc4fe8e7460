"""Opening a store from its address, which is how a worker process gets the store of its driver."""

from pathlib import Path

from hagd.artifacts.filesystem import FilesystemStore
from hagd.artifacts.store import ArtifactStore
from hagd.errors import InvalidInputError


def open_store(location: str) -> ArtifactStore:
    """Open the store at `ArtifactStore.location`.

    Raises:
        InvalidInputError: no kind of store has such an address.
    """
    scheme, _, rest = location.partition(":")
    if scheme == "file" and rest:
        return FilesystemStore(Path(rest))
    raise InvalidInputError(f"no store can be opened at {location!r}", "known addresses: file:/absolute/folder")
