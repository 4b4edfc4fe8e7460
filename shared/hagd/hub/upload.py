"""Files of a folder as one commit of a repository, which is asked afterwards whether it has them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_token

from hagd.errors import InvalidInputError, UnauthenticatedError, UnavailableError
from hagd.hub.asking import LOGIN_HINT, asking
from hagd.hub.download import difference, list_files
from hagd.hub.names import Kind, Source

MAIN = "main"


@dataclass(frozen=True)
class Uploaded:
    """What became of an upload."""

    commit: str
    url: str


def upload(
    folder: Path,
    names: Iterable[str],
    source: Source,
    kind: Kind,
    *,
    private: bool,
    message: str,
    is_ours: Callable[[str], bool],
) -> Uploaded:
    """Add files to a repository, which is made if there is none, in one commit: all of them or none.

    Args:
        names: files of the folder, as they will be called in the repository.
        source: the repository; the branch is made from the main one if there is none.
        private: whether nobody else may read it; of one that is there already this is checked.
        is_ours: whether a file that the repository has would be read together with these.

    Raises:
        InvalidInputError: the repository is public, has a file that would mix with these, or the hub refuses them.
        UnauthenticatedError, PermissionDeniedError, UnknownNameError, UnavailableError: see `asking`.
    """
    what = f"{kind} {str(source)!r}"
    chosen = {name: folder / name for name in names}
    with asking(what):
        if get_token() is None:
            raise UnauthenticatedError("there is no token, and nobody may write to the hub without", LOGIN_HINT)
        api = HfApi()
        api.create_repo(source.repository, repo_type=kind, private=private or None, exist_ok=True)
        if source.revision not in (None, MAIN):
            api.create_branch(source.repository, branch=source.revision, repo_type=kind, exist_ok=True)
    there = list_files(source, kind)
    if private and not there.private:
        raise InvalidInputError(
            f"{source.repository} is there already and public", "leave --private out, or choose another name"
        )
    if mixed := sorted(name for name in there.files if is_ours(name) and name not in chosen):
        raise InvalidInputError(
            f"{source.repository} has {mixed[0]}, which would be read together with these files",
            "push to another repository or branch, or delete it there first",
        )
    with asking(what):
        done = api.create_commit(
            source.repository,
            [CommitOperationAdd(name, path) for name, path in chosen.items()],
            commit_message=message,
            repo_type=kind,
            revision=source.revision or MAIN,
            parent_commit=there.commit,
        )
    _check_arrived(chosen, Source(source.repository, revision=done.oid), kind)
    return Uploaded(done.oid, str(done.commit_url))


def _check_arrived(chosen: dict[str, Path], source: Source, kind: Kind) -> None:
    """Refuse to take an upload for done that is not: what a .gitignore there names is left out silently."""
    listed = list_files(source, kind).files
    for name, path in chosen.items():
        differs = difference(path, listed[name]) if name in listed else "it is not there"
        if differs:
            raise UnavailableError(
                f"{name} did not arrive in {source.repository}: {differs}",
                "look whether its .gitignore names the file, then push again",
            )
