"""`hagd dlq list|show|replay`: requests that a stage gave up, in a folder or where the services work.

What is no request at all has no run that could be opened again, so it is only listed.
"""

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from hagd.cli.options import JsonFlag
from hagd.cli.output import say, write_fields, write_json, write_table
from hagd.cli.place import FolderArgument, open_place

if TYPE_CHECKING:
    from hagd.cli.place import Place
    from hagd.events.log import UnreadableRecord
    from hagd.pipeline.dead_letters import DeadLetter

_SHOWN_BYTES: Final = 200
app = typer.Typer(help="Requests that a stage gave up, and why.", no_args_is_help=True)
LetterArgument = Annotated[str, typer.Argument(metavar="LETTER", help="The id of a dead letter, or its start.")]


def _to_json(letter: "DeadLetter") -> dict[str, Any]:
    return {
        "id": letter.id,
        "run_id": letter.envelope.run_id,
        "generation": letter.envelope.generation,
        "stage_id": letter.stage_id,
        "attempts": letter.attempts,
        "replayed": letter.replayed,
        "refused": letter.refused,
        "error": letter.failure.to_json(),
    }


@app.command("list")
def list_letters(
    folder: FolderArgument = None,
    everything: Annotated[bool, typer.Option("--all", help="Also those whose run has gone on since.")] = False,
    unreadable: Annotated[bool, typer.Option("--unreadable", help="What is no request, and was put away.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """List the requests that were given up and still wait for somebody."""
    from hagd.pipeline.dead_letters import dead_letters  # noqa: PLC0415

    with open_place(folder) as place:
        if unreadable:
            _write_unreadable(_unreadable_in(place), as_json=as_json)
            return
        found = dead_letters(place.log, place.runs, place.stage_ids())
        letters = [letter for letter in found if everything or not letter.replayed]
    if as_json:
        write_json("dead-letters", [_to_json(letter) for letter in letters])
        return
    rows: list[list[Any]] = [
        [it.id[:12], it.envelope.run_id[:12], it.stage_id, it.failure.kind, it.failure.message] for it in letters
    ]
    write_table(["letter", "run", "stage", "error", "message"], rows)


def _unreadable_in(place: "Place") -> "list[UnreadableRecord]":
    from hagd.events.topics import LANES, requested_topic  # noqa: PLC0415

    topics = [requested_topic(stage_id, lane) for stage_id in place.stage_ids() for lane in LANES]
    return [record for topic in topics for record in place.log.unreadable(topic)]


def _write_unreadable(records: "list[UnreadableRecord]", *, as_json: bool) -> None:
    if as_json:
        write_json("unreadable", [_unreadable_to_json(record) for record in records])
        return
    write_table(
        ["record", "bytes", "reason", "starts with"],
        [[it.source, len(it.value), _readable(it.reason.encode()), _readable(it.value)[:60]] for it in records],
    )


def _unreadable_to_json(record: "UnreadableRecord") -> dict[str, Any]:
    return {
        "source": record.source,
        "reason": record.reason,
        "at": record.at,
        "bytes": len(record.value),
        "start": _readable(record.value),
        "headers": {name: _readable(value) for name, value in record.headers},
    }


def _readable(value: bytes) -> str:
    """Give the start of anybody's bytes as text that changes nothing on a terminal."""
    return repr(value[:_SHOWN_BYTES])[2:-1]


@app.command()
def show(letter: LetterArgument, folder: FolderArgument = None, as_json: JsonFlag = False) -> None:
    """Show one dead letter: its run, its error, what it asked for."""
    from hagd.pipeline.dead_letters import find_dead_letter  # noqa: PLC0415

    with open_place(folder) as place:
        found = find_dead_letter(place.log, place.runs, place.stage_ids(), letter)
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
            "replayed": found.replayed,
            "refused": found.refused,
        }
    )


@app.command()
def replay(letter: LetterArgument, folder: FolderArgument = None, as_json: JsonFlag = False) -> None:
    """Open the run of a dead letter again, once its cause is mended; services that work there take it up."""
    from hagd.pipeline.dead_letters import find_dead_letter  # noqa: PLC0415
    from hagd.pipeline.dead_letters import replay as replay_letter  # noqa: PLC0415

    with open_place(folder) as place:
        found = find_dead_letter(place.log, place.runs, place.stage_ids(), letter)
        generation = replay_letter(found, place.runs, place.log)
    if as_json:
        write_json("replay", {"run_id": found.envelope.run_id, "generation": generation})
        return
    say("opened again; running services take it up" + (", or `hagd run resume` does it here" if folder else ""))
    write_fields({"run": found.envelope.run_id, "generation": generation})
