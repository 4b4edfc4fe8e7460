"""`hagd trace`: the spans of a run, as a tree."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from hagd.cli.options import JsonFlag
from hagd.cli.output import write_json, write_line


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(trace)


def trace(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What HAGD_TRACE_FILE named while the run went on.")],
    run_id: Annotated[str, typer.Option("--run", help="Start of a run id; the latest run by default.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Draw what was done in a run: when, how long in seconds, in which process, and under what."""
    from hagd.telemetry.spans import draw, read_spans, trace_of  # noqa: PLC0415

    spans = trace_of(read_spans(file), run_id)
    if as_json:
        write_json("trace", [asdict(span) for span in spans])
        return
    write_line("   begin     took  process")
    for line in draw(spans):
        write_line(line)
