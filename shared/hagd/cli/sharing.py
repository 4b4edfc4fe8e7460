"""`hagd transcoder pull|push`: dictionaries from the hub, and to it."""

from pathlib import Path
from typing import Annotated

import typer

from hagd.cli.options import JsonFlag, QuietFlag
from hagd.cli.output import say, write_fields, write_json

FromOption = Annotated[
    str | None, typer.Option("--from", help="Format of the files, as convert names it; found out by default.")
]


def pull(
    repository: Annotated[
        str, typer.Argument(metavar="REPOSITORY", help="OWNER/NAME on the hub, or OWNER/NAME/FOLDER for a part of it.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder to write; it must not hold anything yet.")],
    revision: Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit; main by default.")] = None,
    source_format: FromOption = None,
    most_gib: Annotated[
        int, typer.Option("--most-gib", min=0, help="Refuse a repository with more GiB of such files.")
    ] = 64,
    quiet: QuietFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Fetch dictionaries from the hub into a folder: the files of their format, each checked, and the model card."""
    from hagd.dictionaries.formats.sharing import pull as fetch  # noqa: PLC0415
    from hagd.hub.names import parse_source  # noqa: PLC0415

    source = parse_source(repository, revision)
    _show_bars(quiet=quiet)
    done = fetch(source, out, source_format, most_bytes=most_gib << 30, tell=_silent if quiet else say)
    fields = {
        "repository": done.source.repository,
        "commit": done.commit,
        "format": done.format,
        "files": done.n_files,
        "bytes": done.size_bytes,
        "folder": str(done.folder),
    }
    if as_json:
        write_json("transcoder-pull", fields)
    else:
        write_fields(fields)


def push(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Dictionaries in any layout that convert reads, with a README.md.")
    ],
    repository: Annotated[str, typer.Argument(metavar="REPOSITORY", help="OWNER/NAME on the hub; made if need be.")],
    revision: Annotated[
        str | None, typer.Option("--revision", help="Branch; made if need be. The main one by default.")
    ] = None,
    source_format: FromOption = None,
    private: Annotated[bool, typer.Option("--private", help="For nobody else; a public one is refused.")] = False,
    message: Annotated[str | None, typer.Option("--message", "-m", help="What the commit says.")] = None,
    quiet: QuietFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Upload dictionaries and their model card to the hub, as one commit."""
    from hagd.dictionaries.formats.sharing import push as send  # noqa: PLC0415
    from hagd.hub.names import parse_source  # noqa: PLC0415

    source = parse_source(repository, revision)
    _show_bars(quiet=quiet)
    done = send(folder, source, source_format, private=private, message=message)
    fields = {
        "repository": done.source.repository,
        "commit": done.commit,
        "format": done.format,
        "files": list(done.files),
        "url": done.url,
    }
    if as_json:
        write_json("transcoder-push", fields)
    else:
        write_fields(fields)


def _silent(text: str) -> None:
    """Say nothing."""


def _show_bars(*, quiet: bool) -> None:
    """Let the hub's library show its progress, which it does on a terminal alone."""
    from huggingface_hub.utils import disable_progress_bars  # noqa: PLC0415

    if quiet:
        disable_progress_bars()
