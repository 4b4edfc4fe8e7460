"""`hagd dlq list|show|replay`: requests that a stage gave up, in the folder of a run or of the services."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hagd.cli.options import JsonFlag
from hagd.cli.output import say, write_fields, write_json, write_table

if TYPE_CHECKING:
    from hagd.events.log import EventLog
    from hagd.pipeline.dead_letters import DeadLetter
    from hagd.pipeline.runs import RunStore

app = typer.Typer(help="Requests that a stage gave up, and why.", no_args_is_help=True)
FolderArgument = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="The folder of a run, or the one that services work in.")
]
LetterArgument = Annotated[str, typer.Argument(metavar="LETTER", help="The id of a dead letter, or its start.")]


@contextmanager
def _place(folder: Path) -> "Generator[tuple[EventLog, RunStore, list[str]]]":
    """Open log and runs of a folder, and name the stages that may have left letters there."""
    from hagd.events.sqlite import SqliteEventLog  # noqa: PLC0415
    from hagd.events.topics import ENTRY_STAGE  # noqa: PLC0415
    from hagd.pipeline.folder import RunFolder  # noqa: PLC0415
    from hagd.pipeline.stages import discover_stages  # noqa: PLC0415

    opened = RunFolder.open(folder)
    runs = opened.open_runs(create=False)
    planned = {entry.stage_id for run_id in runs.list() for entry in runs.request(run_id).plan}
    log = SqliteEventLog(opened.log_path)
    try:
        yield log, runs, sorted({ENTRY_STAGE, *planned, *discover_stages()})
    finally:
        log.close()


def _to_json(letter: "DeadLetter") -> dict[str, Any]:
    return {
        "id": letter.id,
        "run_id": letter.envelope.run_id,
        "generation": letter.envelope.generation,
        "stage_id": letter.stage_id,
        "attempts": letter.attempts,
        "replayed": letter.replayed,
        "error": letter.failure.to_json(),
    }


@app.command("list")
def list_letters(
    folder: FolderArgument,
    everything: Annotated[bool, typer.Option("--all", help="Also those whose run has gone on since.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """List the requests that were given up and still wait for somebody."""
    from hagd.pipeline.dead_letters import dead_letters  # noqa: PLC0415

    with _place(folder) as place:
        letters = [letter for letter in dead_letters(*place) if everything or not letter.replayed]
    if as_json:
        write_json("dead-letters", [_to_json(letter) for letter in letters])
        return
    rows: list[list[Any]] = [
        [it.id[:12], it.envelope.run_id[:12], it.stage_id, it.failure.kind, it.failure.message] for it in letters
    ]
    write_table(["letter", "run", "stage", "error", "message"], rows)


@app.command()
def show(folder: FolderArgument, letter: LetterArgument, as_json: JsonFlag = False) -> None:
    """Show one dead letter: its run, its error, what it asked for."""
    from hagd.pipeline.dead_letters import find_dead_letter  # noqa: PLC0415

    with _place(folder) as place:
        found = find_dead_letter(*place, letter)
    entry = found.envelope.plan[found.envelope.stage_index]
    if as_json:
        inputs = {role: ref.to_json() for role, ref in found.envelope.inputs.items()}
        write_json("dead-letter", _to_json(found) | {"config": dict(entry.config), "inputs": inputs})
        return
    write_fields(
        {
            "letter": found.id,
            "run": found.envelope.run_id,
            "stage": found.stage_id,
            "attempts": found.attempts,
            "error": f"{found.failure.kind}: {found.failure.message}",
            "hint": found.failure.hint or None,
            "config": dict(entry.config),
            "replayed": "yes" if found.replayed else "no",
        }
    )


@app.command()
def replay(folder: FolderArgument, letter: LetterArgument, as_json: JsonFlag = False) -> None:
    """Open the run of a dead letter again, once its cause is mended; services that work in the folder take it up."""
    from hagd.pipeline.dead_letters import find_dead_letter  # noqa: PLC0415
    from hagd.pipeline.dead_letters import replay as replay_letter  # noqa: PLC0415

    with _place(folder) as (log, runs, stage_ids):
        found = find_dead_letter(log, runs, stage_ids, letter)
        generation = replay_letter(found, runs, log)
    if as_json:
        write_json("replay", {"run_id": found.envelope.run_id, "generation": generation})
        return
    say("opened again; running services take it up, or `hagd run resume` does it here")
    write_fields({"run": found.envelope.run_id, "generation": generation})
