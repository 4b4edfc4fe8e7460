"""Rows with floors: printed for people, written as JSON for machines, and an exit status for CI."""

import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

BUILD = Path("build")


@dataclass(frozen=True)
class Row:
    """One measured number. `floor` None: printed beside the others, nothing is asked of it."""

    measure: str
    value: float
    floor: float | None = None
    at_most: bool = False
    """Whether the floor is an upper bound."""
    note: str = ""

    @property
    def met(self) -> bool:
        if self.floor is None:
            return True
        if math.isnan(self.value):
            return False
        return self.value <= self.floor if self.at_most else self.value >= self.floor


def run(title: str, name: str, measures: Mapping[str, Callable[[], list[Row]]], chosen: Sequence[str]) -> int:
    """Measure the rows of the chosen names, all of them when there are none, and report; 2 when a name is unknown."""
    if unknown := sorted(set(chosen) - set(measures)):
        sys.stderr.write(f"unknown: {', '.join(unknown)}; there are {', '.join(measures)}\n")
        return 2
    rows: list[Row] = []
    seconds: dict[str, float] = {}
    for each in chosen or measures:
        began = time.monotonic()
        rows += measures[each]()
        seconds[each] = round(time.monotonic() - began, 1)
        sys.stderr.write(f"{each}: {seconds[each]:.0f} s\n")
    return report(title, name, rows, {"seconds": seconds})


def report(title: str, name: str, rows: Sequence[Row], details: object = None) -> int:
    """Print the table, write `build/<name>.json`, and give the exit status: 1 if a floor is missed."""
    table = Table(title=title, title_justify="left")
    for column in ("measure", "measured", "floor", "", "note"):
        table.add_column(column)
    for row in rows:
        sign = "<=" if row.at_most else ">="
        floor = "" if row.floor is None else f"{sign} {row.floor:g}"
        mark = "" if row.floor is None else "ok" if row.met else "MISSED"
        table.add_row(row.measure, f"{row.value:.4g}", floor, mark, row.note)
    Console(width=150).print(table)
    BUILD.mkdir(exist_ok=True)
    content = {"title": title, "rows": [asdict(row) | {"met": row.met} for row in rows], "details": details}
    path = BUILD / f"{name}.json"
    path.write_text(json.dumps(content, indent=1, default=str))
    print(f"written to {path}")
    return 0 if all(row.met for row in rows) else 1
