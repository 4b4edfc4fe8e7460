"""`hagd admin stage list|pause|resume|drain`: stages that take no new work, on every replica of them."""

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hagd.cli.options import JsonFlag
from hagd.cli.output import EXIT_FAILED, say, write_fields, write_json, write_table
from hagd.cli.place import FolderArgument, Place, open_place
from hagd.errors import UnknownNameError

if TYPE_CHECKING:
    from hagd.pipeline.control import StageControl

app = typer.Typer(help="Let a stage rest.", no_args_is_help=True)
StageArgument = Annotated[str, typer.Argument(metavar="STAGE", help="The id of a stage.")]


@app.callback()
def stage() -> None:
    """Let a stage rest."""


@app.command("list")
def list_paused(folder: FolderArgument = None, as_json: JsonFlag = False) -> None:
    """List the stages that take no new work."""
    with open_place(folder) as place:
        found = _control(place).paused()
    if as_json:
        write_json("stages-paused", [{"stage_id": stage_id, "reason": reason} for stage_id, reason in found.items()])
        return
    rows: list[list[Any]] = [[stage_id, reason] for stage_id, reason in found.items()]
    write_table(["paused", "reason"], rows)


@app.command()
def pause(
    stage_id: StageArgument,
    folder: FolderArgument = None,
    reason: Annotated[str, typer.Option(help="Why, for whoever looks.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Let a stage take no new work. What has begun goes on; requests wait."""
    with open_place(folder) as place:
        _require_known(stage_id, place)
        _control(place).pause(stage_id, reason)
    _tell(stage_id, "paused", as_json=as_json)


@app.command()
def resume(stage_id: StageArgument, folder: FolderArgument = None, as_json: JsonFlag = False) -> None:
    """Let a stage take work again."""
    with open_place(folder) as place:
        _require_known(stage_id, place)
        _control(place).resume(stage_id)
    _tell(stage_id, "working", as_json=as_json)


@app.command()
def drain(
    stage_id: StageArgument,
    folder: FolderArgument = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0, help="How long to wait.")] = 600.0,
    as_json: JsonFlag = False,
) -> None:
    """Pause a stage and wait until no task of it is at work. Exit code 1 when some are; the stage stays paused."""
    from hagd.artifacts.clock import SystemClock  # noqa: PLC0415
    from hagd.pipeline.control import Drain  # noqa: PLC0415

    told: list[int] = []

    def report(count: int) -> None:
        if count and told[-1:] != [count]:
            say(f"{count} tasks at work")
        told.append(count)

    with open_place(folder) as place:
        _require_known(stage_id, place)
        drain = Drain(_control(place), place.runs, place.leases(), SystemClock())
        left = drain.run(stage_id, timedelta(seconds=seconds), report)
    _tell(stage_id, "paused", as_json=as_json, at_work=left)
    if left:
        say("hint: drain it again, or cancel their runs")
        raise typer.Exit(EXIT_FAILED)


def _control(place: Place) -> "StageControl":
    from hagd.pipeline.control import StageControl  # noqa: PLC0415

    return StageControl(place.store)


def _require_known(stage_id: str, place: Place) -> None:
    known = place.stage_ids()
    if stage_id not in known:
        raise UnknownNameError(f"there is no stage {stage_id!r}", f"known here: {', '.join(known)}")


def _tell(stage_id: str, status: str, *, as_json: bool, at_work: list[str] | None = None) -> None:
    if as_json:
        write_json("stage", {"stage_id": stage_id, "status": status, "at_work": at_work or []})
        return
    write_fields({"stage": stage_id, "is": status, "tasks at work": len(at_work) if at_work else None})
