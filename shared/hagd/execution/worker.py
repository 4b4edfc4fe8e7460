"""The worker process: `python -m hagd.execution.worker`, spoken to in frames over its standard input and output.

    in    {"type": "task", "task": ..., "store": address}   {"type": "cancel"}
    out   {"type": "progress", ...}   {"type": "result", ...}   {"type": "failure", ...}

The end of its input ends it at once, so it never outlives its driver. What libraries print goes to the standard
error, because the standard output carries frames.
"""

import math
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, Final

from hagd.artifacts.location import open_store
from hagd.execution.devices import Devices
from hagd.execution.executor import TaskProgress
from hagd.execution.leftovers import Leftovers
from hagd.execution.observing import observed
from hagd.execution.running import run_task
from hagd.execution.wire import failure_of, read_frame, result_to_json, task_from_json, write_frame
from hagd.telemetry.logs import configure_logging
from hagd.telemetry.store import ObservedStore
from hagd.telemetry.tracing import configure_tracing, flush

THREADS_VARIABLE: Final = "HAGD_WORKER_THREADS"
_PROGRESS_SECONDS: Final = 0.1


def answer_task(
    task: Mapping[str, Any],
    store: str,
    on_progress: TaskProgress,
    should_stop: Callable[[], bool],
    threads: int | None,
    devices: Devices,
) -> dict[str, Any]:
    """Run a task given as JSON on the store at an address; give a result or a failure as JSON, and raise nothing."""
    given = task_from_json(task)
    try:
        with observed(given):
            result = run_task(given, ObservedStore(open_store(store)), on_progress, should_stop, threads, devices)
        return {"type": "result", "result": result_to_json(result)}
    except Exception as error:
        return {"type": "failure", "failure": failure_of(error).to_json()}
    finally:
        # Whoever gets the answer may end this process.
        flush()


class _Worker:
    def __init__(self, inbox: BinaryIO, outbox: BinaryIO, threads: int | None, devices: Devices) -> None:
        self._inbox, self._outbox, self._threads, self._devices = inbox, outbox, threads, devices
        self._tasks: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._progress_at = 0.0

    def serve(self) -> None:
        threading.Thread(target=self._listen, daemon=True).start()
        leftovers = Leftovers()
        while True:
            write_frame(self._outbox, self._answer(self._tasks.get()))
            leftovers.collect()

    def _listen(self) -> None:
        while (message := read_frame(self._inbox)) is not None:
            if message["type"] == "cancel":
                self._stop.set()
            else:
                # Here and not by the other thread, which might take back a cancel that came right behind the task.
                self._stop.clear()
                self._tasks.put(message)
        # Not sys.exit: the main thread may be deep in a computation, and nothing here needs a farewell.
        os._exit(0)

    def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        # The first report of a task is never held back, however soon it follows the last one of the task before.
        self._progress_at = -math.inf
        task, store = message["task"], message["store"]
        return answer_task(task, store, self._progress, self._stop.is_set, self._threads, self._devices)

    def _progress(self, done: float, total: float, message: str) -> None:
        now = time.monotonic()
        if done < total and now - self._progress_at < _PROGRESS_SECONDS:
            return
        self._progress_at = now
        frame = {"type": "progress", "done": float(done), "total": float(total), "message": message}
        write_frame(self._outbox, frame)


def main() -> None:
    """Serve tasks until the standard input ends."""
    outbox = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    configure_logging(json_lines=True, service="worker")
    configure_tracing("worker")
    threads = os.environ.get(THREADS_VARIABLE)
    _Worker(sys.stdin.buffer, outbox, int(threads) if threads else None, Devices.of_environment()).serve()


if __name__ == "__main__":
    main()
