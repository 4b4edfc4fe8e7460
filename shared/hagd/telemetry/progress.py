"""Progress of a run for a person: one live bar per stage on a terminal, sparse plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Protocol, Self, TextIO

QUIET_SECONDS = 5.0
"""Without a terminal, a stage says something at most this often."""


class ProgressView(Protocol):
    """What follows a run. Use it as a context manager around the run."""

    def update(self, stage_id: str, done: float, total: float, message: str) -> None:
        """Show how far a stage is; `done` and `total` in a unit of the stage's own."""
        ...

    def finish(self, stage_id: str, note: str) -> None:
        """Show that a stage has its result; `note` says how (in 3 s, found), and may come with a later call."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class SilentProgress:
    """Shows nothing."""

    def update(self, stage_id: str, done: float, total: float, message: str) -> None:
        """Ignore."""

    def finish(self, stage_id: str, note: str) -> None:
        """Ignore."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave nothing behind."""


class LineProgress(SilentProgress):
    """One line per event, for logs and pipes."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._last: dict[str, float] = {}
        self._finished: set[str] = set()

    def update(self, stage_id: str, done: float, total: float, message: str) -> None:
        now = self._clock()
        if stage_id in self._finished or now - self._last.get(stage_id, -QUIET_SECONDS) < QUIET_SECONDS:
            return
        self._last[stage_id] = now
        share = f"{100 * done / total:3.0f} %" if total > 0 else "  …  "
        self._say(f"{stage_id:<13} {share}  {message}")

    def finish(self, stage_id: str, note: str) -> None:
        if stage_id not in self._finished:
            self._finished.add(stage_id)
            self._say(f"{stage_id:<13} done   {note}")

    def _say(self, line: str) -> None:
        self._stream.write(line.rstrip() + "\n")
        self._stream.flush()


class LiveProgress:
    """Bars of rich: all stages of the plan are there from the start, so that one sees what is to come."""

    def __init__(self, stages: Sequence[str], console: Any) -> None:
        # Imported here because rich's progress module costs 80 ms, which `hagd --help` need not pay.
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415
        from rich.table import Column  # noqa: PLC0415

        self._progress = Progress(
            TextColumn("{task.fields[mark]} {task.description:<13}"),
            BarColumn(bar_width=28),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            # What a stage says is no markup, and one line is enough for it.
            TextColumn(
                "{task.fields[note]}", style="dim", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")
            ),
            console=console,
        )
        self._tasks = {
            stage: self._progress.add_task(stage, total=1.0, start=False, mark=" ", note="") for stage in stages
        }

    def update(self, stage_id: str, done: float, total: float, message: str) -> None:
        task = self._task(stage_id)
        self._progress.start_task(task)
        known = total > 0
        self._progress.update(
            task, completed=done if known else 0, total=total if known else None, mark="[cyan]▸[/]", note=message
        )

    def finish(self, stage_id: str, note: str) -> None:
        task = self._task(stage_id)
        self._progress.start_task(task)
        self._progress.update(task, completed=1, total=1, mark="[green]✓[/]", note=note)
        self._progress.stop_task(task)

    def refresh(self) -> None:
        """Draw now; otherwise a few times a second."""
        self._progress.refresh()

    def _task(self, stage_id: str) -> Any:
        if stage_id not in self._tasks:
            self._tasks[stage_id] = self._progress.add_task(stage_id, total=1.0, start=False, mark=" ", note="")
        return self._tasks[stage_id]

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


def progress_view(stages: Sequence[str], *, quiet: bool = False, stream: TextIO | None = None) -> ProgressView:
    """Choose what suits the stream (stderr by default): bars on a terminal, lines otherwise."""
    if quiet:
        return SilentProgress()
    out = stream if stream is not None else sys.stderr
    if not out.isatty():
        return LineProgress(out)
    from rich.console import Console  # noqa: PLC0415  # as above

    return LiveProgress(stages, Console(file=out))
