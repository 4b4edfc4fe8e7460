"""`hagd store usage|gc`: what the store of a folder holds, and the collection of what nobody needs any more."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hagd.cli.options import JsonFlag
from hagd.cli.output import write_fields, write_json, write_table
from hagd.errors import RunError

if TYPE_CHECKING:
    from hagd.pipeline.folder import RunFolder

app = typer.Typer(help="Artifacts that runs have made.", no_args_is_help=True)
FolderArgument = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="The folder of a run, or the one that services work in.")
]


@app.command()
def usage(folder: FolderArgument, as_json: JsonFlag = False) -> None:
    """Show what the artifacts take, and for which run."""
    from hagd.pipeline.folder import RunFolder  # noqa: PLC0415
    from hagd.pipeline.housekeeping import usage as measure  # noqa: PLC0415

    opened = RunFolder.open(folder)
    found = measure(opened.open_store(create=False), opened.open_runs(create=False))
    if as_json:
        write_json("store-usage", asdict(found))
        return
    write_fields(
        {"blobs": found.blobs, "size": _size(found.bytes), "needed by no run": _size(found.bytes - found.needed_bytes)}
    )
    rows: list[list[Any]] = [[run_id[:12], _size(size)] for run_id, size in sorted(found.by_run.items())]
    write_table(["run", "size"], rows)


@app.command()
def gc(
    folder: FolderArgument,
    grace_hours: Annotated[float, typer.Option("--grace-hours", min=0, help="Keep what nobody needs so long.")] = 24.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Remove what no run needs: results at once, their bytes with the first collection after the grace."""
    from hagd.artifacts.clock import SystemClock  # noqa: PLC0415
    from hagd.pipeline.folder import RunFolder  # noqa: PLC0415
    from hagd.pipeline.housekeeping import collect  # noqa: PLC0415

    opened = RunFolder.open(folder)
    _require_own_store(opened)
    store, runs = opened.open_store(), opened.open_runs()
    found = collect(store, runs, SystemClock(), grace_seconds=grace_hours * 3600, dry_run=dry_run)
    if as_json:
        write_json("store-gc", asdict(found) | {"dry_run": dry_run})
        return
    write_fields(
        {
            "would go" if dry_run else "gone": f"{found.blobs} blobs, {_size(found.bytes)}",
            "results forgotten": found.manifests,
            "in grace": f"{found.waiting_blobs} blobs, {_size(found.waiting_bytes)}",
        }
    )


def _require_own_store(folder: "RunFolder") -> None:
    """Refuse a store outside the folder: what runs of other folders need there cannot be seen from here."""
    if not folder.store_path.is_relative_to(folder.root):
        raise RunError(
            f"{folder.root} uses the shared store {folder.store_path}, which other folders may need",
            "delete the store when no folder uses it, or give every folder a store of its own",
        )


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"
