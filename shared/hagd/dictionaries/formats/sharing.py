"""Dictionaries from the hub, and to it: the files of one format and the model cards, nothing else of a repository.

What a repository is of is found out before its weights are fetched: the formats look at its configs and at which names
there are, so configs in a folder with empty files in place of weights tell it.
"""

import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hagd.artifacts.folders import publish_folder, require_empty
from hagd.dictionaries.formats.card import CARD
from hagd.dictionaries.formats.files import LARGEST_CONFIG_BYTES, PICKLES, Folder
from hagd.dictionaries.formats.origin import write_record
from hagd.dictionaries.formats.registry import FORMATS, detect, format_named, read_folder
from hagd.errors import InvalidInputError
from hagd.hub.cache import cached
from hagd.hub.download import Listing, RemoteFile, fetch, list_files, place
from hagd.hub.names import Source, below, is_hub, parse_source
from hagd.hub.upload import upload

CONFIGS: Final = (".json", ".yaml")
MOST_FILES: Final = 1024
"""Files of one set of dictionaries; whole releases with every width have more."""
MOST_BYTES: Final = 64 << 30


@dataclass(frozen=True)
class Pulled:
    """What was fetched."""

    source: Source
    commit: str
    format: str
    folder: Path
    """Where the dictionaries lie: below the folder that was asked for where the source is a folder of a repository."""
    n_files: int
    size_bytes: int


@dataclass(frozen=True)
class Pushed:
    """What was uploaded."""

    source: Source
    commit: str
    url: str
    format: str
    files: tuple[str, ...]


def pull(
    source: Source,
    out: Path,
    source_format: str | None = None,
    *,
    most_bytes: int = MOST_BYTES,
    tell: Callable[[str], None] = lambda _: None,
) -> Pulled:
    """Fetch the dictionaries of a repository into a folder, where files have the names that they have there.

    Args:
        out: a folder that is empty or does not exist; it appears when it is complete.
        source_format: the format, in place of finding it out.
        most_bytes: refuse more than this before anything large is fetched.
        tell: is told what is about to be fetched.

    Raises:
        InvalidInputError: it is of no format or pickled, too large, lists names that lead elsewhere, or what came is
            not what was listed.
        UnknownNameError: there is no such repository, folder, revision or format.
        UnauthenticatedError, PermissionDeniedError, UnavailableError: as the hub answers.
    """
    require_empty(out)
    return _pull(list_files(source, "model"), out, source_format, most_bytes, tell, linked=False)


def dictionaries_at(
    text: str, source_format: str | None = None, *, tell: Callable[[str], None] = lambda _: None
) -> Path:
    """Give the folder of dictionaries that a path names, or a repository: `hub:OWNER/NAME[/FOLDER][@REVISION]`.

    Repositories are kept in the cache by commit, so one that is named by its commit needs no network again.

    Raises: as `pull`, for a repository.
    """
    if not is_hub(text):
        return Path(text).expanduser()

    def fill(listing: Listing, entry: Path) -> None:
        _pull(listing, entry, source_format, MOST_BYTES, tell, linked=True)

    return cached(parse_source(text), "model", fill, variant=source_format or "")


def _pull(
    listing: Listing,
    out: Path,
    source_format: str | None,
    most_bytes: int,
    tell: Callable[[str], None],
    *,
    linked: bool,
) -> Pulled:
    source = listing.source
    name = _format_of(listing, source_format)
    chosen = [it for it in listing.files.values() if _is_wanted(it, source, name)]
    _refuse_pickles(listing, name)
    size = sum(it.size_bytes for it in chosen)
    if size > most_bytes:
        raise InvalidInputError(
            f"{source} has {size / 2**30:.1f} GiB of files, more than {most_bytes / 2**30:.1f}",
            "name a folder of it, as OWNER/NAME/FOLDER, or allow more with --most-gib of hagd transcoder pull",
        )
    tell(f"fetching {len(chosen)} files, {size / 2**20:.1f} MiB, of {source}, unless they are in the hub's cache")
    names = sorted(it.name for it in chosen)
    fetched = fetch(listing, names)

    def fill(partial: Path) -> None:
        place(fetched, partial, linked=linked)
        write_record(partial / source.folder, listing, names, name)

    publish_folder(out, fill)
    return Pulled(source, listing.commit, name, out / source.folder, len(names), size)


def _format_of(listing: Listing, source_format: str | None) -> str:
    """Find out the format, or check the one that is named, by configs alone."""
    with _stand_ins(listing, format_named(source_format)) as folder:
        if source_format is None:
            return detect(folder)
        if not FORMATS[source_format].matches(folder):
            raise InvalidInputError(
                f"{listing.source} is not of the format {source_format}",
                "leave --from out to find its format",
            )
        return source_format


@contextmanager
def _stand_ins(listing: Listing, names: tuple[str, ...]) -> Generator[Folder]:
    """Give a folder with the configs of a repository, and an empty file in place of each of its weights and pickles."""
    source = listing.source
    wanted = [it for it in listing.files.values() if any(_is_wanted(it, source, name) for name in names)]
    if len(wanted) > MOST_FILES:
        raise InvalidInputError(
            f"{source} has {len(wanted)} files of dictionaries, more than the {MOST_FILES} of any one set",
            "name a folder of it, as OWNER/NAME/FOLDER",
        )
    configs = [it for it in wanted if it.name.endswith(CONFIGS)]
    for it in configs:
        if it.size_bytes > LARGEST_CONFIG_BYTES:
            raise InvalidInputError(
                f"{it.name} has {it.size_bytes} bytes, more than any config of {LARGEST_CONFIG_BYTES}",
                "name another folder",
            )
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / source.repository.partition("/")[2]
        (root / source.folder).mkdir(parents=True)
        fetched = fetch(listing, [it.name for it in configs])
        try:
            place(fetched, root)
            for name in [*(it.name for it in wanted), *_pickles(listing)]:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).touch()
        except OSError as error:
            raise InvalidInputError(f"the files of {source} cannot be laid out: {error}", "free space") from error
        yield Folder(root / source.folder)


def _is_wanted(file: RemoteFile, source: Source, name: str) -> bool:
    """Say whether a file is of a format, or a card. Settings of a whole set may lie above the folder of a part."""
    inner = below(file.name, source.folder)
    own = file.name.rpartition("/")[2] if inner is None else inner
    if own == CARD:
        return True
    return FORMATS[name].has(own) and (inner is not None or own.endswith(CONFIGS))


def _pickles(listing: Listing) -> list[str]:
    return [name for name in listing.files if name.endswith(PICKLES) and below(name, listing.source.folder)]


def _refuse_pickles(listing: Listing, name: str) -> None:
    for pickled in _pickles(listing):
        safe = f"{pickled.rpartition('.')[0]}.safetensors"
        if safe not in listing.files and FORMATS[name].has(below(safe, listing.source.folder) or ""):
            raise InvalidInputError(
                f"{listing.source} has {pickled} and no {safe}: a pickle can run code when opened, so none is fetched",
                "ask its owner for safetensors; if you trust whoever made it, get the file yourself and convert it "
                "with --unsafe-pickle",
            )


def push(
    folder: Path,
    source: Source,
    source_format: str | None = None,
    *,
    private: bool = False,
    message: str | None = None,
) -> Pushed:
    """Upload a folder of dictionaries as one commit, once it was read from end to end.

    Args:
        source: a repository, which is made if there is none, and a branch of it.
        private: whether a new repository is for its owner alone; one that is there and public is refused.

    Raises:
        InvalidInputError: the folder is of no format, damaged, pickled or has no model card, or the repository would
            mix its files with others.
        UnknownNameError: there is no such format, or the name is no repository.
        UnauthenticatedError, PermissionDeniedError, UnavailableError: as the hub answers.
    """
    if source.folder:
        raise InvalidInputError(f"{source} names a folder of a repository", "push to a repository: OWNER/NAME")
    found = read_folder(folder, source_format)
    _require_card(folder)
    name = found.source_format
    inside = sorted(it.relative_to(folder).as_posix() for it in folder.rglob("*") if it.is_file())
    names = [it for it in inside if it == CARD or FORMATS[name].has(it)]
    done = upload(
        folder,
        names,
        source,
        "model",
        private=private,
        message=message or f"Dictionaries in the layout {name}",
        is_ours=lambda it: any(known.has(it) for known in FORMATS.values()),
    )
    return Pushed(source, done.commit, done.url, name, tuple(names))


def _require_card(folder: Path) -> None:
    try:
        written = bool((folder / CARD).read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError):
        written = False
    if not written:
        raise InvalidInputError(
            f"{folder.name} has no {CARD}, the model card",
            "write one: what the dictionaries are of and how they were made; convert writes one too",
        )
