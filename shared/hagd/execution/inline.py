"""Running tasks in the calling thread: for tests, notebooks and debuggers. A crash of the task is a crash of all."""

from collections.abc import Callable

from hagd.artifacts.store import ArtifactStore
from hagd.errors import HagdError
from hagd.execution.devices import Devices
from hagd.execution.executor import Task, TaskProgress, TaskResult
from hagd.execution.observing import observed
from hagd.execution.running import run_task
from hagd.execution.wire import error_of, failure_of


class InlineExecutor:
    """An `Executor` without a worker; it stops a task only when the task reports progress."""

    def __init__(self, devices: Devices | None = None) -> None:
        """Compute on the processor unless `devices` say otherwise."""
        self._devices = devices

    def execute(
        self, task: Task, store: ArtifactStore, on_progress: TaskProgress, should_stop: Callable[[], bool]
    ) -> TaskResult:
        try:
            with observed(task):
                return run_task(task, store, on_progress, should_stop, devices=self._devices)
        except HagdError:
            raise
        except Exception as error:
            raise error_of(failure_of(error)) from error

    def close(self) -> None:
        """Nothing to end."""
