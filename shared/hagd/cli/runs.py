"""`hagd run list|status|resume|resubmit|cancel|delete|logs`: runs in a folder, behind the address of a service, or
in the log and store that the services are set to.
"""

from collections import deque
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from hagd.cli.options import JsonFlag, QuietFlag, RunFolderArgument, RunIdOption, ThreadsOption, with_security
from hagd.cli.output import say, write_fields, write_json, write_line, write_table
from hagd.cli.place import DeployedFlag, FolderArgument, Place, open_place
from hagd.errors import RunError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from hagd.extraction.opened import OpenRun
    from hagd.pipeline.state import RunState
    from hagd.rpc.security.channel import ClientSecurity

app = typer.Typer(help="Look at runs and steer them.", no_args_is_help=True)
RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="The folder that --out named; with --address or --deployed, the start of a run id."
    ),
]
AddressOption = Annotated[
    str | None, typer.Option("--address", help="host:port of a service to ask instead of a folder.")
]
QUIET_MINUTES: Final = 10.0
_ASKED_TO_STOP: Final = "asked to stop; it does at its next report of progress"
MinutesOption = Annotated[
    float, typer.Option("--minutes", min=0, help="How long nothing was heard of a run that counts as stalled.")
]
RootsArgument = Annotated[
    list[Path] | None, typer.Argument(metavar="[FOLDER]...", help="Run folders; all below runs/ by default.")
]


def run_to_json(state: "RunState") -> dict[str, Any]:
    """Give a run as JSON."""
    return {
        "run_id": state.run_id,
        "request_id": state.request.request_id,
        "status": state.outcome.status if state.outcome else _going(state),
        "generation": state.generation,
        "cancel_requested": state.cancel_requested,
        "stages": [stage.to_json() for stage in state.stages],
        "error": state.outcome.failure.to_json() if state.outcome and state.outcome.failure else None,
        "labels": dict(state.request.labels),
    }


def _going(state: "RunState") -> str:
    return "running" if any(stage.status == "running" for stage in state.stages) else "interrupted"


@app.command("list")
@with_security
def list_runs(
    security: "ClientSecurity",
    folders: RootsArgument = None,
    address: AddressOption = None,
    deployed: DeployedFlag = False,
    stalled: Annotated[bool, typer.Option("--stalled", help="Only runs that nothing will take further.")] = False,
    minutes: MinutesOption = QUIET_MINUTES,
    as_json: JsonFlag = False,
) -> None:
    """List runs and how far they are."""
    if stalled and address:
        raise UsageError(
            "a service does not see all that a stalled run lacks", "name folders, or --deployed, in place of --address"
        )
    if stalled or deployed:
        roots = [None] if deployed else _roots(folders)
        quiet = timedelta(minutes=minutes)
        found = [it for root in roots for it in (_stalled_in(root, quiet) if stalled else _deployed_runs())]
    else:
        found = _runs_at(address, security) if address else _runs_in(folders)
    if as_json:
        write_json("runs", [{"folder": place} | run_to_json(state) for place, state in found])
        return
    rows: list[list[Any]] = []
    for place, state in found:
        done = sum(stage.status in ("done", "cached") for stage in state.stages)
        status = state.outcome.status if state.outcome else _going(state)
        rows.append([place, state.run_id[:12], status, f"{done}/{len(state.stages)}"])
    write_table(["folder", "run", "status", "stages"], rows)


def _runs_at(address: str, security: "ClientSecurity") -> "list[tuple[str, RunState]]":
    from hagd.rpc.client import StageClient  # noqa: PLC0415

    with StageClient(address, security=security) as client:
        return [(address, state) for state in client.list()]


def _runs_in(folders: list[Path] | None) -> "list[tuple[str, RunState]]":
    from hagd.extraction import opened  # noqa: PLC0415

    return [(str(root), state) for root in _roots(folders) for state in opened.list_runs(root)]


def _roots(folders: list[Path] | None) -> list[Path]:
    from hagd.extraction.plan import RUNS_FOLDER  # noqa: PLC0415

    return folders if folders else [path.parent for path in sorted(Path(RUNS_FOLDER).glob("*/hagd-run.json"))]


def _stalled_in(root: Path | None, quiet: timedelta) -> "list[tuple[str, RunState]]":
    with open_place(root) as place:
        return [(place.name, state) for state in place.stall_check().find(quiet)]


def _deployed_runs() -> "list[tuple[str, RunState]]":
    with open_place(None) as place:
        return [(place.name, place.runs.get(run_id)) for run_id in place.runs.list()]


@app.command()
def resubmit(folder: FolderArgument = None, minutes: MinutesOption = QUIET_MINUTES, as_json: JsonFlag = False) -> None:
    """Put all stalled runs into the log again, as after the log was lost; services take them up."""
    from hagd.pipeline.stalled import resubmit as put_back  # noqa: PLC0415

    with open_place(folder) as place:
        stalled = place.stall_check().find(timedelta(minutes=minutes))
        ids = put_back(stalled, place.runs, place.log)
    if as_json:
        write_json("resubmitted", ids)
        return
    say("running services take them up" + (", or `hagd run resume` does it here" if folder else ""))
    write_table(["resubmitted"], [[run_id] for run_id in ids])


@app.command()
@with_security
def status(
    security: "ClientSecurity",
    run: RunArgument,
    run_id: RunIdOption = None,
    address: AddressOption = None,
    deployed: DeployedFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Show how far a run is, stage by stage."""
    from hagd.extraction.opened import OpenRun  # noqa: PLC0415

    if deployed:
        with open_place(None) as place:
            state = place.runs.get(place.runs.find(run))
    else:
        state = _find_at(address, run, security) if address else OpenRun.open(Path(run), run_id).state
    write_run(state, as_json=as_json)


def _find_at(address: str, prefix: str, security: "ClientSecurity") -> "RunState":
    """Give the one run of a service whose id starts with `prefix`."""
    found = [state for _, state in _runs_at(address, security) if state.run_id.startswith(prefix)]
    if len(found) != 1:
        raise UnknownNameError(
            f"{len(found)} runs have an id that starts with {prefix!r}", "`hagd run list --address` shows the ids"
        )
    return found[0]


def write_run(state: "RunState", *, as_json: bool) -> None:
    """Write the state of a run."""
    if as_json:
        write_json("run", run_to_json(state))
        return
    write_fields({"run": state.run_id, "status": state.outcome.status if state.outcome else _going(state)})
    if state.error is not None:
        write_fields({"error": state.error.message, "hint": state.error.hint or None})
    rows = [
        [
            stage.stage_id,
            stage.status,
            f"{stage.seconds:.1f} s" if stage.seconds else "-",
            f"{stage.peak_rss_bytes / 2**20:.0f} MiB" if stage.peak_rss_bytes else "-",
            stage.task_key[:12] or "-",
        ]
        for stage in state.stages
    ]
    write_table(["stage", "status", "time", "memory", "task"], rows)


@app.command()
def resume(
    run: RunArgument,
    run_id: RunIdOption = None,
    deployed: DeployedFlag = False,
    threads: ThreadsOption = None,
    quiet: QuietFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Go on with a run that was interrupted, failed or cancelled; finished stages are not computed again."""
    from hagd.extraction.opened import OpenRun  # noqa: PLC0415
    from hagd.extraction.running import run_request  # noqa: PLC0415
    from hagd.telemetry.progress import progress_view  # noqa: PLC0415

    if deployed:
        with open_place(None) as place:
            state = _resume_at(place, run)
        say("opened again; running services take it up")
        write_run(state, as_json=as_json)
        return
    opened = OpenRun.open(Path(run), run_id)
    request = opened.state.request
    view = progress_view([entry.stage_id for entry in request.plan], quiet=quiet)
    state = run_request(opened.root, request, view=view, threads=threads)
    state.raise_for_failure()
    write_run(state, as_json=as_json)


def _resume_at(place: Place, prefix: str) -> "RunState":
    """Hand a run to the services again; one that waits or goes on there is left to them."""
    from hagd.pipeline.submission import open_again  # noqa: PLC0415

    state = place.runs.get(place.runs.find(prefix))
    if state.outcome is None:
        raise RunError(
            f"run {state.run_id[:12]} has not ended", "services go on with it by themselves; a stalled one: `resubmit`"
        )
    return open_again(state, place.runs, place.log)


@app.command()
@with_security
def cancel(
    security: "ClientSecurity",
    run: RunArgument,
    run_id: RunIdOption = None,
    address: AddressOption = None,
    deployed: DeployedFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Ask a run to stop, whichever process works on it. What is finished stays."""
    from hagd.extraction.opened import OpenRun  # noqa: PLC0415

    if deployed:
        with open_place(None) as place:
            write_run(_cancel_at(place, run), as_json=as_json)
        return
    state = _find_at(address, run, security) if address else OpenRun.open(Path(run), run_id).state
    _require_unfinished(state)
    if address:
        from hagd.rpc.client import StageClient  # noqa: PLC0415

        with StageClient(address, security=security) as client:
            state = client.cancel(state.run_id)
    else:
        state = _cancel_here(OpenRun.open(Path(run), state.run_id))
    if state.outcome is None:
        say(_ASKED_TO_STOP)
    write_run(state, as_json=as_json)


def _require_unfinished(state: "RunState") -> None:
    if state.outcome is not None:
        raise RunError(f"the run has ended: {state.outcome.status}", "there is nothing to cancel")


def _cancel_at(place: Place, prefix: str) -> "RunState":
    run_id = place.runs.find(prefix)
    _require_unfinished(place.runs.get(run_id))
    place.runs.cancel(run_id)
    say(_ASKED_TO_STOP)
    return place.runs.get(run_id)


def _cancel_here(opened: "OpenRun") -> "RunState":
    """Cancel a run of a folder. Where nobody works, nobody would end it, so it ends here."""
    from hagd.pipeline.state import Outcome  # noqa: PLC0415

    runs, run_id = opened.folder.open_runs(), opened.state.run_id
    runs.cancel(run_id)
    if not opened.folder.is_active():
        unfinished = [stage for stage in opened.state.stages if stage.status not in ("done", "cached")]
        outcome = Outcome("cancelled", unfinished[0].stage_id)
        runs.finish(run_id, opened.state.generation, outcome, opened.state.request.principal)
    return runs.get(run_id)


@app.command()
def delete(
    run: RunArgument, run_id: RunIdOption = None, deployed: DeployedFlag = False, as_json: JsonFlag = False
) -> None:
    """Forget a run that has ended; `hagd store gc` then frees what only it needed."""
    from hagd.extraction.opened import OpenRun  # noqa: PLC0415
    from hagd.pipeline.housekeeping import delete_run  # noqa: PLC0415

    if deployed:
        with open_place(None) as place:
            deleted = place.runs.find(run)
            delete_run(place.runs, deleted)
    else:
        opened = OpenRun.open(Path(run), run_id)
        deleted = opened.state.run_id
        delete_run(opened.folder.open_runs(), deleted)
    if as_json:
        write_json("run-deleted", {"run_id": deleted})
        return
    write_fields({"deleted": deleted})


@app.command()
def logs(
    run: RunFolderArgument,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many of the last lines.")] = 200,
    as_json: JsonFlag = False,
) -> None:
    """Print what the workers of a run folder have logged, and what their libraries have printed."""
    from hagd.pipeline.folder import RunFolder  # noqa: PLC0415
    from hagd.telemetry.logs import readable  # noqa: PLC0415

    path = RunFolder.open(run).worker_log_path
    last: deque[str] = deque(maxlen=lines)
    if path.exists():
        with path.open(errors="replace") as stream:
            last.extend(line.rstrip("\n") for line in stream)
    if as_json:
        write_json("logs", list(last))
        return
    for line in last:
        write_line(readable(line))
