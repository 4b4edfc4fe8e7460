"""The life of a stage service: its loops in threads, its server on the event loop, one orderly end for both.

start -> the address on stdout, as one JSON line -> SIGTERM, SIGINT, end of stdin or a loop that broke
      -> NOT_SERVING, nothing more is claimed -> tasks at work end, or have used up the drain
      -> what is left is stopped and its requests given back -> calls end -> worker, log

A second signal ends the process there and then. That is as safe as any crash: leases and claims run out, and another
service goes on from the last checkpoint.
"""

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import structlog

from hagd.deployment.config import DRAIN
from hagd.errors import CancelledError
from hagd.events.log import EventLog
from hagd.execution.executor import Executor
from hagd.pipeline.loop import StageLoop
from hagd.pipeline.router import RequestRouter
from hagd.rpc.server import StageServer
from hagd.telemetry.tracing import flush

if TYPE_CHECKING:
    from hagd.telemetry.prometheus import MetricsServer

_log: Any = structlog.get_logger("hagd.hosting")
LOOP_GRACE: Final = timedelta(seconds=15)
"""How long a task may take to heed a stop; the executor kills its worker before that."""


@dataclass
class StageHost:
    """Everything one service process runs."""

    name: str
    server: StageServer
    loops: Sequence[StageLoop]
    log: EventLog
    executor: Executor
    router: RequestRouter | None = None
    """Only the first stage has one: it hands requests to the first stage of their plan."""
    drain: timedelta = DRAIN
    """How long tasks at work may go on after the service was asked to stop."""
    metrics: "MetricsServer | None" = None
    """Where Prometheus reads this process; None when it was not asked for."""
    broken: bool = field(default=False, init=False)
    """A loop ended by an error that it should not have had."""
    threads: list[threading.Thread] = field(default_factory=list[threading.Thread], init=False)

    async def serve(self, listen: str, *, until_eof: bool = False) -> int:
        """Serve until asked to stop; give the exit code.

        Raises:
            UnavailableError: the address cannot be bound.
        """
        stop = asyncio.Event()
        event_loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            event_loop.add_signal_handler(number, _stop_or_end, stop)
        wake = lambda: event_loop.call_soon_threadsafe(stop.set)  # noqa: E731
        try:
            address = await self.server.start(listen)
            self.start_loops(wake)
            if until_eof:
                threading.Thread(target=_wait_for_eof, args=(wake,), daemon=True).start()
            metrics = {"metrics": self.metrics.address} if self.metrics is not None else {}
            sys.stdout.write(json.dumps({"service": self.name, "address": str(address)} | metrics) + "\n")
            sys.stdout.flush()
            _log.info("serving", address=str(address))
            await stop.wait()
            _log.info("stopping")
        finally:
            await self.end()
        return 1 if self.broken else 0

    def start_loops(self, wake: Callable[[], object]) -> None:
        """Begin to work off requests; `wake` is called when a loop breaks."""
        works: list[tuple[str, Callable[[], None]]] = [(loop.spec.id, loop.run) for loop in self.loops]
        if self.router is not None:
            works.append(("router", partial(self.router.run, self.loops[0].draining)))
        for name, work in works:
            thread = threading.Thread(target=self._guard, args=(work, wake), name=name, daemon=True)
            thread.start()
            self.threads.append(thread)

    async def end(self) -> None:
        """Stop loops, calls, worker and log, in this order; safe after a start that failed."""
        for loop in self.loops:
            loop.draining.set()
        draining = asyncio.create_task(self.server.drain())
        await self._joined(self.drain)
        for loop in self.loops:
            loop.stop.set()
        await self._joined(LOOP_GRACE)
        await draining
        await asyncio.to_thread(self.executor.close)
        await asyncio.to_thread(self.log.close)
        if self.metrics is not None:
            await asyncio.to_thread(self.metrics.close)
        await asyncio.to_thread(flush)

    async def _joined(self, patience: timedelta) -> None:
        """Wait for the threads, all of them together no longer than `patience`."""
        now = asyncio.get_running_loop().time
        deadline = now() + patience.total_seconds()
        for thread in self.threads:
            await asyncio.to_thread(thread.join, max(0.0, deadline - now()))

    def _guard(self, work: Callable[[], None], wake: Callable[[], object]) -> None:
        """Run a loop; one that breaks ends the service, so that whoever watches it starts a fresh one."""
        try:
            work()
        except Exception:
            _log.exception("loop broke")
            self.broken = True
            wake()


def _stop_or_end(stop: asyncio.Event) -> None:
    """Begin to stop; the second time, end. Workers end with their driver, because their stdin does."""
    if stop.is_set():
        _log.warning("asked to stop again: ending at once")
        os._exit(CancelledError.exit_code)
    stop.set()


def _wait_for_eof(wake: Callable[[], object]) -> None:
    # The descriptor itself: a thread that waits inside `sys.stdin` would abort the interpreter when it ends.
    while os.read(0, 4096):
        pass
    wake()
