"""Listings of repositories, and files fetched as listed: by commit, no longer and no other than the listing says.

The library keeps what it fetched in its cache, so what came whole is not fetched again, whatever happened since.
"""

import hashlib
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils.tqdm import tqdm

from hagd.errors import InvalidInputError, UnavailableError, UnknownNameError
from hagd.hub.asking import ENDPOINT_HINT, asking
from hagd.hub.names import Kind, Source, below, check_path, is_commit

_PLAIN_DOWNLOAD: Final = "huggingface_hub.http_get"
"""What the library calls its bars of downloads whose bytes are those of the file."""
_DIGEST: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True)
class RemoteFile:
    """A file as the listing has it."""

    name: str
    """From the root of the repository."""
    size_bytes: int
    digest: str
    """sha256 of the content of a large file, else git's sha1 of it as a blob; told apart by their length."""


@dataclass(frozen=True)
class Listing:
    """What a repository holds at one commit, below the folder that was asked for and in the folders above that."""

    source: Source
    kind: Kind
    commit: str
    files: Mapping[str, RemoteFile]
    private: bool

    @property
    def what(self) -> str:
        return f"{self.kind} {str(self.source)!r}"


def list_files(source: Source, kind: Kind) -> Listing:
    """Ask what a repository holds.

    Raises:
        InvalidInputError: a name in the listing leads elsewhere, or a file has no size or digest.
        UnknownNameError, UnauthenticatedError, PermissionDeniedError, UnavailableError: see `asking`.
    """
    what = f"{kind} {str(source)!r}"
    with asking(what):
        api = HfApi()
        ask = api.model_info if kind == "model" else api.dataset_info
        found = ask(source.repository, revision=source.revision, files_metadata=True, timeout=60)
        commit, private, siblings = str(found.sha), bool(found.private), list(found.siblings or ())
    if not is_commit(commit) or (is_commit(source.revision) and commit != source.revision):
        raise UnavailableError(
            f"what answers for {what} names the commit {commit[:60]!r}",
            ENDPOINT_HINT,
        )
    for it in siblings:
        check_path(it.rfilename)
    files = [_listed(it) for it in siblings if _is_of(it.rfilename, source.folder)]
    if source.folder and not any(below(it.name, source.folder) for it in files):
        raise UnknownNameError(f"{source.repository} has no folder {source.folder!r}", "look at the repository's page")
    return Listing(source, kind, commit, {it.name: it for it in files}, private)


def _is_of(name: str, folder: str) -> bool:
    parent = name.rpartition("/")[0]
    return below(name, folder) is not None or parent == "" or below(folder, parent) is not None


def _listed(sibling: RepoSibling) -> RemoteFile:
    digest = sibling.lfs.sha256 if sibling.lfs else sibling.blob_id
    if not isinstance(sibling.size, int) or sibling.size < 0 or not _DIGEST.fullmatch(str(digest)):
        raise InvalidInputError(
            f"the hub lists {sibling.rfilename} without size and digest, so it could not be checked",
            "give a hub or a mirror that lists them",
        )
    return RemoteFile(sibling.rfilename, sibling.size, str(digest))


def fetch(listing: Listing, names: Iterable[str]) -> dict[str, Path]:
    """Fetch files, or find them in the library's cache, and check each; give where they lie, by name.

    Raises:
        InvalidInputError: what came is not what the listing says.
        UnavailableError: the connection broke, or the disk is full.
        UnknownNameError, UnauthenticatedError, PermissionDeniedError: see `asking`.
    """
    return {name: _fetched(listing, listing.files[name]) for name in names}


def _fetched(listing: Listing, file: RemoteFile) -> Path:
    differs = ""
    # What lies in the cache may have been damaged there, and is then fetched anew.
    for anew in (False, True):
        with asking(f"{file.name} of {listing.what}"):
            path = Path(
                hf_hub_download(
                    listing.source.repository,
                    file.name,
                    repo_type=listing.kind,
                    revision=listing.commit,
                    force_download=anew,
                    tqdm_class=_bar_up_to(file),
                )
            )
        differs = difference(path, file)
        if not differs:
            return path
    raise InvalidInputError(
        f"{file.name} of {listing.what} is not what the hub lists: {differs}",
        "try again; if it stays so, tell the owner of the repository",
    )


def difference(path: Path, file: RemoteFile) -> str:
    """Say in what a file differs from how it is listed; empty where it does not."""
    if (size := path.stat().st_size) != file.size_bytes:
        return f"{size} bytes, listed are {file.size_bytes}"
    with path.open("rb") as stream:
        if len(file.digest) == 64:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        else:
            # How git names a blob; a small file has no other digest on the hub.
            whole = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
            while piece := stream.read(1 << 20):
                whole.update(piece)
            digest = whole.hexdigest()
    return "" if digest == file.digest else f"digest {digest[:12]}, listed is {file.digest[:12]}"


def _bar_up_to(file: RemoteFile) -> type[tqdm]:
    """Give the library's progress bar, which ends a download that is longer than its listing before it fills a disk."""

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._plain, self._seen = kwargs.get("name") == _PLAIN_DOWNLOAD, int(kwargs.get("initial") or 0)
            super().__init__(*args, **kwargs)

        def update(self, n: float | None = 1) -> bool | None:
            self._seen += int(n or 0)
            if self._plain and self._seen > file.size_bytes:
                raise InvalidInputError(
                    f"{file.name} is longer than the {file.size_bytes} bytes that the hub lists",
                    "tell the owner of the repository; nothing was kept",
                )
            return super().update(n)

    return Bar


def place(fetched: Mapping[str, Path], folder: Path, *, linked: bool = False) -> None:
    """Put fetched files into a folder under their names.

    Args:
        linked: share their bytes with the library's cache where the file system can; for files that nobody edits.
    """
    for name, path in fetched.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if linked:
            try:
                target.hardlink_to(path.resolve())
                continue
            except OSError:
                # Another file system, or one without links.
                pass
        shutil.copyfile(path, target)
