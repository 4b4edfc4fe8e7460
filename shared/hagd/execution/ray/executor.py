"""Running tasks in actors of a Ray cluster, each a process of its own that one task has to itself.

Ray places workers and takes them away; that a task is done is known from the log and the store alone. So an actor is
never restarted and a call never repeated by Ray: the loop of the stage decides what follows a death, as it does for
every executor. The driver connects when the first task comes.
"""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import ray
import ray.exceptions

from hagd.artifacts.store import ArtifactStore
from hagd.errors import CancelledError, UnavailableError
from hagd.execution.executor import Task, TaskProgress, TaskResult
from hagd.execution.ray.failures import error_of_ray
from hagd.execution.ray.pool import RayPool, Worker
from hagd.execution.ray.settings import RaySettings
from hagd.execution.wire import Failure, error_of, result_from_json, task_to_json

_POLL_SECONDS: Final = 0.1
_LOOK_SECONDS: Final = 1.0
"""How often a driver asks for progress: what a task reports in between is never sent. To ask takes a task the time of a
thread of its process."""
_PATIENCE_SECONDS: Final = 5.0
"""How long a worker may take to start before somebody is told that it has no place yet."""


class RayExecutor:
    """An `Executor` with up to `settings.workers` tasks at a time; more calls than that wait for each other.

    `close` ends its workers and leaves the connection of this process to the cluster, which others may share.
    """

    def __init__(self, settings: RaySettings) -> None:
        """Set up; connects to nothing."""
        self._settings = settings
        self._pool = RayPool(settings)

    def execute(
        self, task: Task, store: ArtifactStore, on_progress: TaskProgress, should_stop: Callable[[], bool]
    ) -> TaskResult:
        """Run a task as `Executor` says.

        Raises:
            UnavailableError: there is no cluster, or no place in it for a worker within `settings.start_time`.
        """
        with self._pool.place(lambda: _heed(task, should_stop)):
            worker = self._pool.take()
            try:
                call = _Call(worker, task, store, self._settings)
                answer = call.wait(on_progress, should_stop)
            except BaseException as error:
                # Also KeyboardInterrupt: the worker must not go on with a task that nobody waits for.
                self._pool.discard(worker)
                if isinstance(error, ray.exceptions.RayError):
                    raise error_of_ray(error, task.stage_id) from error
                raise
            self._pool.give_back(worker)
        if answer["type"] == "failure":
            raise error_of(Failure.from_json(answer["failure"]))
        return result_from_json(answer["result"])

    def close(self) -> None:
        self._pool.close()


class _Call:
    """One task in one actor, from the request to the answer."""

    def __init__(self, worker: Worker, task: Task, store: ArtifactStore, settings: RaySettings) -> None:
        self._worker, self._task, self._settings = worker, task, settings
        self._actor, self._number = worker.actor, worker.tasks
        self._answer = self._actor.run.remote(self._number, json.dumps(task_to_json(task)), store.location)
        # A warm worker has answered before.
        self._started, self._told = worker.tasks > 1, False
        self._look: Any = None if self._started else self._actor.look.remote()
        self._look_at = self._began = time.monotonic()

    def wait(self, on_progress: TaskProgress, should_stop: Callable[[], bool]) -> dict[str, Any]:
        """Give the actor's answer, passing on its progress.

        Raises:
            RayError: the actor died, or could not be asked.
            CancelledError: the task did not heed a stop within its grace, or had not begun.
            UnavailableError: the worker found no place in time.
        """
        kill_at: float | None = None
        while True:
            if kill_at is None and should_stop():
                # A worker that has not started yet has nothing to lose.
                kill_at = time.monotonic() + (self._settings.grace.total_seconds() if self._started else 0.0)
                self._actor.stop.remote(self._number)
            if kill_at is not None and time.monotonic() >= kill_at:
                raise _stopped(self._task)
            report = on_progress if kill_at is None else _ignore
            self._check_start(report)
            answer = self._listen(report)
            if answer is not None:
                return answer

    def _listen(self, report: TaskProgress) -> dict[str, Any] | None:
        """Wait a moment for the answer or for news of it."""
        if self._look is None and time.monotonic() - self._look_at >= _LOOK_SECONDS:
            self._look, self._look_at = self._actor.look.remote(), time.monotonic()
        asked = [ref for ref in (self._answer, self._look) if ref is not None]
        ready, _ = ray.wait(asked, num_returns=1, timeout=_POLL_SECONDS)
        if self._answer in ready:
            answer = json.loads(self._get(self._answer))
            _pass_on(answer["progress"], report)
            return answer
        if ready:
            _pass_on(json.loads(self._get(self._look)), report)
            self._look, self._started = None, True
        return None

    def _check_start(self, report: TaskProgress) -> None:
        if self._started:
            return
        waited = time.monotonic() - self._began
        if waited >= self._settings.start_time.total_seconds():
            raise UnavailableError(
                f"no place for a Ray worker with {self._settings.reserved} within {self._settings.start_time}",
                "see `ray status`: add such a node, let the cluster grow, or let a worker reserve less",
            )
        if waited >= _PATIENCE_SECONDS and not self._told:
            self._told = True
            report(0.0, 0.0, f"waiting for a Ray worker with {self._settings.reserved}")

    def _get(self, ref: Any) -> str:
        try:
            return ray.get(ref)
        except ray.exceptions.ActorUnavailableError:
            # Said at once when a connection breaks. A moment later Ray knows why, which is worth more.
            with suppress(ray.exceptions.GetTimeoutError, ray.exceptions.ActorUnavailableError):
                ray.get(self._actor.look.remote(), timeout=_PATIENCE_SECONDS)
            raise


def _heed(task: Task, should_stop: Callable[[], bool]) -> None:
    if should_stop():
        raise _stopped(task)


def _stopped(task: Task) -> CancelledError:
    return CancelledError(f"stage {task.stage_id!r} was stopped", "issue the same command to go on")


def _pass_on(news: list[Any] | None, report: TaskProgress) -> None:
    if news is not None:
        report(news[0], news[1], news[2])


def _ignore(done: float, total: float, message: str) -> None:
    """Drop the progress of a task that was told to stop."""
