"""Opening a store from its address, which is how a worker process gets the store of its driver."""

import tempfile
from pathlib import Path

from hagd.artifacts.filesystem import FilesystemStore
from hagd.artifacts.store import ArtifactStore
from hagd.errors import InvalidInputError


def open_store(location: str, *, probe: bool = False) -> ArtifactStore:
    """Open the store at `ArtifactStore.location`.

    `probe` tries conditional writes first, where a server may lack them: for a driver, whose workers then need not.

    Raises:
        InvalidInputError: no kind of store has such an address, or the probe fails.
        UnavailableError: the store does not answer.
    """
    scheme, _, rest = location.partition(":")
    if scheme == "file" and rest:
        return FilesystemStore(Path(rest))
    if scheme == "s3":
        # The client library is an extra, and takes a moment to load.
        from hagd.artifacts.s3 import S3Store  # noqa: PLC0415
        from hagd.artifacts.s3_client import S3Settings  # noqa: PLC0415

        return S3Store(S3Settings.from_location(location), probe=probe)
    raise InvalidInputError(
        f"no store can be opened at {location!r}",
        "known addresses: file:/absolute/folder, s3:http://host:port/bucket[/folder]",
    )


def scratch_folder(location: str) -> Path:
    """Give a folder for nameless files: on the disk of the store at `location`, or this machine's where it has none."""
    scheme, _, rest = location.partition(":")
    return Path(rest) if scheme == "file" else Path(tempfile.gettempdir())
