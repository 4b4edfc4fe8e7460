"""How the CLI speaks: data on stdout, as tables or as JSON of one form; errors with kind, message and hint; exit codes.

0 ok    1 failed    2 usage    3 verdict below the threshold    4 unavailable    130 interrupted
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from hagd.errors import HagdError

SCHEMA: Final = "hagd.cli/v1"
EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_VERDICT: Final = 3
EXIT_INTERRUPTED: Final = 130
DOCS: Final = "docs/errors/index.md#{kind}"


def write_json(kind: str, data: Any) -> None:
    """Write one answer to stdout."""
    _write({"schema": SCHEMA, "kind": kind, "data": data})


def _write(content: Mapping[str, Any]) -> None:
    write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(text: str, to: Path | None = None) -> None:
    """Write text to a file, or to stdout.

    Raises:
        StoreFullError, UnavailableError: the file cannot be written.
        BrokenPipeError: who read stdout went away.
        SystemExit: stdout cannot be written for another reason, which stderr was told.
    """
    if to is not None:
        from hagd.artifacts.folders import write_whole  # noqa: PLC0415

        write_whole(text, to)
        return
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        drop_output()
        say(f"error (unavailable): standard output cannot be written: {error.strerror}")
        say("hint: write it elsewhere, or free space; what was computed is kept")
        sys.exit(EXIT_FAILED)


def drop_output() -> None:
    """Write nothing to stdout any more: python would complain once more when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def error_to_json(error: HagdError) -> dict[str, Any]:
    """Give the JSON form of an error."""
    return {
        "error": {
            "kind": error.kind,
            "message": error.message,
            "hint": error.hint,
            "docs": DOCS.format(kind=error.kind),
        }
    }


def write_error(error: HagdError, *, as_json: bool) -> None:
    """Write an error: to stdout when a program reads, to stderr when a person does."""
    if as_json:
        _write(error_to_json(error))
        return
    say(f"error ({error.kind}): {error.message}")
    if error.hint:
        say(f"hint: {error.hint}")


def say(text: str) -> None:
    """Tell a person something; a pipe that reads stdout does not see it."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def write_line(text: str = "") -> None:
    """Write a line of data."""
    write_text(text + "\n")


def write_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a table: aligned columns, numbers to the right, no lines to get in the way of `cut` and `awk`."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(header), *cells]) for i in range(len(header))]
    right = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(header))]
    for row in [list(header), *cells]:
        padded = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]
        write_line("  ".join(padded).rstrip())


def write_fields(fields: Mapping[str, Any]) -> None:
    """Write names and values, aligned."""
    width = max((len(name) for name in fields), default=0)
    for name, value in fields.items():
        write_line(f"{name.ljust(width)}  {_cell(value)}".rstrip())


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return " ".join(_cell(part) for part in value)
    return str(value)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
