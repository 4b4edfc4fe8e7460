"""What tasks say of themselves: when each began and ended, and in which process."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Line:
    """One end of a task."""

    what: str
    name: str
    pid: int
    moment: float
    """On the monotonic clock of the machine."""


def read_journal(path: Path) -> list[Line]:
    """Give the lines in the order of their moments; none when nothing was written."""
    if not path.exists():
        return []
    parts = [line.split() for line in path.read_text().splitlines()]
    lines = [Line(what, name, int(pid), float(moment)) for what, name, pid, moment in parts]
    return sorted(lines, key=lambda line: line.moment)


def most_at_once(lines: Sequence[Line]) -> int:
    """Give the largest number of tasks that were at work at one moment."""
    running = most = 0
    for line in lines:
        running += 1 if line.what == "begin" else -1
        most = max(most, running)
    return most
