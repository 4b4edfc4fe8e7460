"""Running a plan in its folder with the embedded runtime, and telling a person how it goes."""

import contextlib
import signal
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from hagd.pipeline.contract import StageSpec
from hagd.pipeline.embedded import EmbeddedRuntime
from hagd.pipeline.request import Request
from hagd.pipeline.stages import find_stage
from hagd.pipeline.state import RunState
from hagd.telemetry.progress import ProgressView, SilentProgress
from hagd.telemetry.tracing import span


class StageProgress:
    """Passes the progress of stages on to a view, and marks a stage finished when a later one speaks."""

    def __init__(self, order: Sequence[str], view: ProgressView) -> None:
        self._order = list(order)
        self._view = view
        self._finished: set[str] = set()

    def update(self, stage_id: str, done: float, total: float, message: str) -> None:
        """Take what a stage reports."""
        if stage_id in self._order:
            for earlier in self._order[: self._order.index(stage_id)]:
                self._finish(earlier, "")
        if message == "already computed":
            self._finish(stage_id, message)
        elif stage_id not in self._finished:
            self._view.update(stage_id, done, total, message)

    def end(self, state: RunState) -> None:
        """Mark what the run has finished, with what it took."""
        for stage in state.stages:
            if stage.status == "done":
                self._view.finish(stage.stage_id, f"{stage.seconds:.1f} s, {stage.peak_rss_bytes / 2**20:.0f} MiB")
            elif stage.status == "cached":
                self._view.finish(stage.stage_id, "already computed")

    def _finish(self, stage_id: str, note: str) -> None:
        if stage_id not in self._finished:
            self._finished.add(stage_id)
            self._view.finish(stage_id, note)


def run_request(
    root: Path,
    request: Request,
    *,
    view: ProgressView | None = None,
    store: Path | None = None,
    threads: int | None = None,
    stages: Mapping[str, StageSpec] | None = None,
) -> RunState:
    """Run a request to its outcome in `root`, going on where an earlier call was interrupted.

    Args:
        root: the run folder.
        request: what to run.
        view: shows the progress; nothing when None.
        store: folder of artifacts that runs share; that of the run folder when None.
        threads: CPU threads of the worker process; all that may be used when None.
        stages: the stages by id; the installed ones when None.

    Raises:
        HagdError: what `EmbeddedRuntime` and its `run` raise; a stage that fails ends in the state's outcome instead.
        KeyboardInterrupt: asked to stop, by Ctrl-C or SIGTERM; nothing finished is lost.
    """
    shown = view or SilentProgress()
    progress = StageProgress([entry.stage_id for entry in request.plan], shown)
    # Only the stages of the plan: another one that is broken must not stand in the way.
    stages = {entry.stage_id: find_stage(entry.stage_id, stages) for entry in request.plan}
    with stopped_by_sigterm(), EmbeddedRuntime(root, store=store, threads=threads, stages=stages) as runtime, shown:
        with span("run"):
            state = runtime.run(request, progress.update)
        progress.end(state)
    return state


@contextlib.contextmanager
def stopped_by_sigterm() -> Generator[None]:
    """Let SIGTERM end the block as Ctrl-C does; no change outside the main thread, where Python has no signals."""

    def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
