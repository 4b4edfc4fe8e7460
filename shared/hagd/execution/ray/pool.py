"""The actors of one service: made when a task needs one, kept warm for the next, ended when none comes.

An actor that idles keeps its GPU from everybody else and its node from going away, so idle ones end after a time.
"""

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import ray
import ray.exceptions

from hagd.errors import UnavailableError
from hagd.execution.ray.actor import RayWorker
from hagd.execution.ray.settings import RaySettings

_NAMESPACE: Final = "hagd"
_POLL_SECONDS: Final = 0.1
_PING_SECONDS: Final = 5.0
_CONNECTING: Final = threading.Lock()


@dataclass(eq=False)
class Worker:
    """An actor as its driver sees it."""

    actor: Any
    """The handle that Ray gives; its methods are made at run time."""
    tasks: int = 0
    """Tasks so far, and the number of the one at hand."""
    idle_since: float = field(default=0.0)


class RayPool:
    """Up to `settings.workers` actors, for use by several threads."""

    def __init__(self, settings: RaySettings) -> None:
        """Set up; connects to nothing."""
        self._settings = settings
        self._places = threading.Semaphore(settings.workers)
        self._changed = threading.Condition()
        self._idle: list[Worker] = []
        self._busy: list[Worker] = []
        self._closed = False
        self._reaper: threading.Thread | None = None

    @contextmanager
    def place(self, check: Callable[[], None]) -> Generator[None]:
        """Hold one of the pool's places, calling `check` while waiting for it, which may raise."""
        while not self._places.acquire(timeout=_POLL_SECONDS):
            check()
        try:
            yield
        finally:
            self._places.release()

    def take(self) -> Worker:
        """Give a warm worker that still lives, else a fresh one; only with a place.

        Raises:
            UnavailableError: there is no cluster.
        """
        connect(self._settings.address)
        while (worker := self._warmest()) is not None and not _is_alive(worker):
            self.discard(worker)
        if worker is None:
            worker = Worker(_new_actor(self._settings))
            with self._changed:
                self._busy.append(worker)
        worker.tasks += 1
        return worker

    def give_back(self, worker: Worker) -> None:
        """Keep a worker for the next task, unless its tasks are used up."""
        if self._closed or worker.tasks >= self._settings.max_tasks:
            self.discard(worker)
            return
        with self._changed:
            self._busy.remove(worker)
            worker.idle_since = time.monotonic()
            self._idle.append(worker)
            if self._reaper is None:
                self._reaper = threading.Thread(target=self._reap, name="ray-idle", daemon=True)
                self._reaper.start()
            self._changed.notify_all()

    def discard(self, worker: Worker) -> None:
        """End a worker, whatever it does."""
        with self._changed:
            if worker in self._busy:
                self._busy.remove(worker)
        _kill(worker)

    def close(self) -> None:
        """End all workers, busy ones too, whose callers then see them die."""
        with self._changed:
            self._closed = True
            workers, self._idle, self._busy = [*self._idle, *self._busy], [], []
            self._changed.notify_all()
        for worker in workers:
            _kill(worker)
        if self._reaper is not None:
            self._reaper.join()

    def _warmest(self) -> Worker | None:
        """Take the worker that became idle last, so that the others may end."""
        with self._changed:
            if not self._idle:
                return None
            worker = self._idle.pop()
            self._busy.append(worker)
            return worker

    def _reap(self) -> None:
        """End what has idled too long, until the pool is closed."""
        idle_seconds = self._settings.idle_time.total_seconds()
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                while self._idle and now - self._idle[0].idle_since >= idle_seconds:
                    _kill(self._idle.pop(0))
                wait = self._idle[0].idle_since + idle_seconds - now if self._idle else None
                self._changed.wait(wait)


def connect(address: str) -> None:
    """Connect this process to a cluster, once for all executors in it.

    Raises:
        UnavailableError: there is none.
    """
    with _CONNECTING:
        if ray.is_initialized():
            return
        try:
            # What workers print stays in the logs of the cluster: stdout of a service is data.
            ray.init(address, namespace=_NAMESPACE, log_to_driver=False, configure_logging=False)
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise UnavailableError(
                f"no Ray cluster answers at {address!r}: {' '.join(str(error).split())[:300]}",
                "start one with `ray start --head`, or name one with --ray-address",
            ) from error


def _new_actor(settings: RaySettings) -> Any:
    remote: Any = ray.remote(RayWorker)
    options: dict[str, Any] = {"num_cpus": settings.cpus, "num_gpus": settings.gpus}
    if settings.memory_bytes is not None:
        options["memory"] = settings.memory_bytes
    # One thread for the task and one for who asks about it. Restarts and repetitions are for the stage's loop.
    actor = remote.options(**options, max_restarts=0, max_task_retries=0, max_concurrency=2)
    return actor.remote(settings.threads, settings.gpus, settings.device)


def _is_alive(worker: Worker) -> bool:
    try:
        ray.get(worker.actor.look.remote(), timeout=_PING_SECONDS)
    except (ray.exceptions.RayError, TimeoutError):
        return False
    return True


def _kill(worker: Worker) -> None:
    # The cluster may be gone, and with it the worker.
    with suppress(ray.exceptions.RayError, RuntimeError, ValueError):
        ray.kill(worker.actor, no_restart=True)
