"""What runs inside an actor: one task at a time, and beside it a look at its progress and a word to stop.

Everything that passes through Ray is text, so Ray pickles nothing of ours and no tensor ever lies in its object store.
An error of a task is an answer like any other. Only the death of the process is an error of Ray.
"""

import json
import os
import threading
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from hagd.execution.devices import Devices
    from hagd.execution.leftovers import Leftovers

_THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class RayWorker:
    """An actor. Ray calls it from two threads: one runs the task, one answers for it."""

    def __init__(self, threads: int, gpus: float, device: str) -> None:
        """Set up a process that was started for this actor alone.

        Args:
            threads: CPU threads of tasks.
            gpus: what the actor reserved. Ray hides GPUs only from those who reserved others.
            device: what tasks compute on, a `DeviceKind`.
        """
        self._threads = threads
        self._lock = threading.Lock()
        self._stopped = 0
        self._news: list[Any] | None = None
        os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
        if not gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._answer, self._leftovers, devices = _load()
        self._devices = devices(device, gpus > 0)

    def run(self, number: int, task: str, store: str) -> str:
        """Run a task on the store at an address; give the answer of `hagd.execution.worker`, as JSON.

        `number` grows with every task of this actor.
        """
        with self._lock:
            self._news = None
        given, stopped = json.loads(task), lambda: self._stopped >= number
        answer = self._answer(given, store, self._progress, stopped, self._threads, self._devices)
        self._leftovers.collect()
        return json.dumps({**answer, "progress": self._take_news()}, allow_nan=False)

    def look(self) -> str:
        """Give `[done, total, message]` as JSON when it has changed since the last look, else `null`."""
        return json.dumps(self._take_news(), allow_nan=False)

    def stop(self, number: int) -> None:
        """Ask the task of that number to stop, also when it has not begun."""
        self._stopped = number

    def _progress(self, done: float, total: float, message: str) -> None:
        # Kept, not sent: however often a task reports, the wire carries what the driver asks for.
        with self._lock:
            self._news = [float(done), float(total), message]

    def _take_news(self) -> list[Any] | None:
        with self._lock:
            news, self._news = self._news, None
        return news


def _load() -> "tuple[Callable[..., dict[str, Any]], Leftovers, type[Devices]]":
    # Not at the top: numpy reads the variables of `__init__` when it is loaded, and this module is loaded before.
    from hagd.execution.devices import Devices  # noqa: PLC0415
    from hagd.execution.leftovers import Leftovers  # noqa: PLC0415
    from hagd.execution.worker import answer_task  # noqa: PLC0415
    from hagd.telemetry.logs import configure_logging  # noqa: PLC0415
    from hagd.telemetry.tracing import configure_tracing  # noqa: PLC0415

    configure_logging(json_lines=True, service="worker")
    configure_tracing("worker")
    return answer_task, Leftovers(), Devices
