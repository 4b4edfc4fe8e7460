"""`hagd store usage|gc`: what a store holds, and the collection of what nobody needs any more."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from hagd.cli.options import JsonFlag
from hagd.cli.output import write_fields, write_json, write_table
from hagd.cli.place import FolderArgument, open_place
from hagd.errors import RunError

app = typer.Typer(help="Artifacts that runs have made.", no_args_is_help=True)


@app.command()
def usage(folder: FolderArgument = None, as_json: JsonFlag = False) -> None:
    """Show what the artifacts take, and for which run."""
    from hagd.pipeline.housekeeping import usage as measure  # noqa: PLC0415

    with open_place(folder) as place:
        found = measure(place.store, place.runs)
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
    folder: FolderArgument = None,
    grace_hours: Annotated[float, typer.Option("--grace-hours", min=0, help="Keep what nobody needs so long.")] = 24.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Remove what no run needs: results at once, their bytes with the first collection after the grace."""
    from hagd.artifacts.clock import SystemClock  # noqa: PLC0415
    from hagd.pipeline.housekeeping import collect  # noqa: PLC0415

    with open_place(folder) as place:
        if place.root is not None:
            _require_own_store(place.root)
        grace_seconds = grace_hours * 3600
        found = collect(place.store, place.runs, SystemClock(), grace_seconds=grace_seconds, dry_run=dry_run)
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


def _require_own_store(folder: Path) -> None:
    """Refuse a store outside the folder: what runs of other folders need there cannot be seen from here."""
    from hagd.pipeline.folder import RunFolder  # noqa: PLC0415

    opened = RunFolder.open(folder)
    if not opened.store_path.is_relative_to(opened.root):
        raise RunError(
            f"{opened.root} uses the shared store {opened.store_path}, which other folders may need",
            "delete the store when no folder uses it, or give every folder a store of its own",
        )


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"
