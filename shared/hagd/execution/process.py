"""Running tasks in one warm worker process, so that the driver imports no torch and survives a crash of the task.

A worker is started by the first task, kept for the next ones, and replaced after `max_tasks` tasks, after its death,
and after a stop that it did not heed.
"""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from hagd.artifacts.clock import Clock, SystemClock
from hagd.artifacts.store import ArtifactStore
from hagd.errors import CancelledError, WorkerDiedError
from hagd.execution.executor import Task, TaskProgress, TaskResult
from hagd.execution.running import available_threads
from hagd.execution.wire import Failure, error_of, read_frame, result_from_json, task_to_json, write_frame
from hagd.execution.worker import THREADS_VARIABLE

_THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", THREADS_VARIABLE)
_POLL_SECONDS: Final = 0.1
_LOG_TAIL_BYTES: Final = 2000


class ProcessExecutor:
    """An `Executor` with one worker process; calls from several threads wait for each other."""

    def __init__(
        self,
        *,
        threads: int | None = None,
        max_tasks: int = 32,
        grace_seconds: float = 5.0,
        log_path: Path | None = None,
        environment: Mapping[str, str] | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Set up; starts nothing.

        Args:
            threads: CPU threads of the worker; all that this process may use when None.
            max_tasks: tasks after which a worker is replaced, which bounds what leaks.
            grace_seconds: how long a worker may take to heed a stop before it is killed.
            log_path: where the standard error of workers is appended; a temporary file when None.
            environment: variables of the worker beside those of this process.
            clock: time, for the grace.
        """
        self._threads, self._max_tasks, self._grace_seconds = threads or available_threads(), max_tasks, grace_seconds
        self._log_path, self._environment, self._clock = log_path, dict(environment or {}), clock or SystemClock()
        self._lock = threading.Lock()
        self._worker: _Worker | None = None

    def execute(
        self, task: Task, store: ArtifactStore, on_progress: TaskProgress, should_stop: Callable[[], bool]
    ) -> TaskResult:
        with self._lock:
            worker = self._warm_worker()
            try:
                worker.send({"type": "task", "task": task_to_json(task), "store": store.location})
                answer = self._wait(worker, task, on_progress, should_stop)
            except BaseException:
                # Also KeyboardInterrupt: the worker must not go on with a task that nobody waits for.
                self._discard()
                raise
        if answer["type"] == "failure":
            raise error_of(Failure.from_json(answer["failure"]))
        return result_from_json(answer["result"])

    def close(self) -> None:
        with self._lock:
            self._discard()

    def _warm_worker(self) -> "_Worker":
        worker = self._worker
        if worker is not None and (worker.tasks >= self._max_tasks or not worker.is_alive()):
            self._discard()
            worker = None
        if worker is None:
            limits = dict.fromkeys(_THREAD_VARIABLES, str(self._threads))
            self._worker = worker = _Worker({**os.environ, **limits, **self._environment}, self._log_path)
        worker.tasks += 1
        return worker

    def _wait(
        self, worker: "_Worker", task: Task, on_progress: TaskProgress, should_stop: Callable[[], bool]
    ) -> dict[str, Any]:
        """Give the worker's answer, passing on its progress."""
        kill_at: float | None = None
        while True:
            if kill_at is None and should_stop():
                kill_at = self._clock.monotonic() + self._grace_seconds
                worker.send({"type": "cancel"})
            if kill_at is not None and self._clock.monotonic() >= kill_at:
                raise CancelledError(f"stage {task.stage_id!r} was stopped", "issue the same command to go on")
            try:
                message = worker.inbox.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            if message is None:
                raise worker.death(task.stage_id)
            if message["type"] != "progress":
                return message
            if kill_at is None:
                on_progress(message["done"], message["total"], message["message"])

    def _discard(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker = None


class _Worker:
    def __init__(self, environment: Mapping[str, str], log_path: Path | None) -> None:
        self.tasks = 0
        self.inbox: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._log = _open_log(log_path)
        self._log_start = self._log.seek(0, os.SEEK_END)
        # A session of its own, so that Ctrl-C reaches the driver alone and the driver decides.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "hagd.execution.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            start_new_session=True,
        )
        self._stdin = cast(BinaryIO, self._process.stdin)
        self._stdout = cast(BinaryIO, self._process.stdout)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def send(self, message: Mapping[str, Any]) -> None:
        # A worker that has died is noticed by the end of its output.
        with contextlib.suppress(BrokenPipeError):
            write_frame(self._stdin, message)

    def death(self, stage_id: str) -> WorkerDiedError:
        code = self._process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
        hint = "a kill from outside is often a lack of memory"
        tail = self._log_tail()
        return WorkerDiedError(f"the worker of stage {stage_id!r} {how}" + (f": {tail}" if tail else ""), hint)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._stdin, self._stdout, self._log):
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def _read(self) -> None:
        while (message := read_frame(self._stdout)) is not None:
            self.inbox.put(message)
        self.inbox.put(None)

    def _log_tail(self) -> str:
        end = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(self._log_start, end - _LOG_TAIL_BYTES))
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        # Its own lines tell what it was at; what a dying process says comes from elsewhere and is no JSON.
        said = [line for line in lines if not line.startswith("{")]
        return said[-1] if said else ""


def _open_log(path: Path | None) -> BinaryIO:
    if path is not None:
        return path.open("ab+")
    return cast(BinaryIO, tempfile.TemporaryFile())
