"""Several executors behind one port, so that one stage may run several tasks at a time."""

import queue
from collections.abc import Callable, Sequence

from hagd.artifacts.store import ArtifactStore
from hagd.errors import CancelledError
from hagd.execution.executor import Executor, Task, TaskProgress, TaskResult

_POLL_SECONDS = 0.1


class PooledExecutor:
    """An `Executor` that gives each task to whichever of its executors is free; further calls wait for one."""

    def __init__(self, executors: Sequence[Executor]) -> None:
        """Take over executors, which `close` then closes."""
        self._executors = tuple(executors)
        # Last in, first out: the warmest worker comes first, and those that are not needed never start.
        self._free: queue.LifoQueue[Executor] = queue.LifoQueue()
        for executor in reversed(self._executors):
            self._free.put(executor)

    def execute(
        self, task: Task, store: ArtifactStore, on_progress: TaskProgress, should_stop: Callable[[], bool]
    ) -> TaskResult:
        executor = self._take(task, should_stop)
        try:
            return executor.execute(task, store, on_progress, should_stop)
        finally:
            self._free.put(executor)

    def close(self) -> None:
        for executor in self._executors:
            executor.close()

    def _take(self, task: Task, should_stop: Callable[[], bool]) -> Executor:
        while True:
            try:
                return self._free.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                if should_stop():
                    text = f"stage {task.stage_id!r} was stopped before it began"
                    raise CancelledError(text, "issue the same command to go on") from None
