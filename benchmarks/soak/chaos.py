"""Brings the faults about at their times. What it does to a process it notes down, so that the auditor need not ask.

It stops one service at a time, because two replicas of each are all there are.
"""

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final

import psutil

from benchmarks.soak.cluster import Cluster
from benchmarks.soak.faults import Faults
from benchmarks.soak.journal import JournalReader
from benchmarks.soak.settings import POINTS, Settings
from benchmarks.soak.supervisor import Service, Supervisor
from benchmarks.soak.timetable import Fault

_LOOK_SECONDS: Final = 0.2
_TAKEOVER_SECONDS: Final = 60.0
"""How long the holder of a lease is stopped at most."""
_TRIES_SECONDS: Final = 20.0
"""How long a kill waits for a process of the kind asked for."""
_REFILL_SECONDS: Final = 15.0


class Chaos:
    """A thread that works off a timetable, and one that lets stopped holders of leases go on."""

    def __init__(self, settings: Settings, cluster: Cluster, supervisor: Supervisor, faults: Faults) -> None:
        self._settings, self._cluster, self._supervisor, self._faults = settings, cluster, supervisor, faults
        self._chance = random.Random(f"victims/{settings.seed}")
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []
        self.broken: list[BaseException] = []
        """What ended a thread that should not have ended."""

    def start(self, timetable: Iterable[Fault], seconds: float) -> None:
        """Begin; the timetable takes so many seconds."""
        begun = time.monotonic()

        def work_off() -> None:
            for fault in timetable:
                if self._closing.wait(max(0.0, begun + fault.at * seconds - time.monotonic())):
                    return
                self._bring_about(fault)
            self._refill()

        for work in (work_off, self._resume_holders):
            thread = threading.Thread(target=self._guarded, args=(work,), name="chaos", daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self) -> None:
        """Take back the faults that did not happen, and let everything go on."""
        self._closing.set()
        for thread in self._threads:
            thread.join()
        self._faults.withdraw()
        for service in self._supervisor.services:
            if (pid := service.pid) is not None:
                _signal(pid, signal.SIGCONT)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self.broken.append(error)
            raise

    def _bring_about(self, fault: Fault) -> None:
        match fault.kind:
            case "token":
                self._faults.release(fault.target)
            case "kill":
                self._kill(fault.target)
            case "stop":
                self._stop()
            case "restart":
                self._restart(fault)

    def _kill(self, target: str) -> None:
        """Kill a service, or a worker, whichever there is first."""
        deadline = time.monotonic() + _TRIES_SECONDS
        while not self._closing.is_set():
            services = [(service, pid) for service in self._serving() if (pid := service.pid) is not None]
            workers = [(service, pid) for service, _ in services for pid in service.workers()]
            victims = workers if target == "worker" and time.monotonic() < deadline else services
            if victims:
                service, pid = self._chance.choice(victims)
                self._faults.journal.note("killed", process=pid, service=service.name, target=target)
                _signal(pid, signal.SIGKILL)
                return
            self._closing.wait(_LOOK_SECONDS)

    def _stop(self) -> None:
        """Stop a service for longer than anybody waits for it; its worker computes on."""
        services = [(service, pid) for service in self._serving() if (pid := service.pid) is not None]
        if not services:
            return
        service, pid = self._chance.choice(services)
        _signal(pid, signal.SIGSTOP)
        self._faults.journal.note("stopped", process=pid, service=service.name)
        self._closing.wait(self._settings.stopped_seconds)
        self._go_on(pid)

    def _go_on(self, pid: int) -> None:
        _signal(pid, signal.SIGCONT)
        self._faults.journal.note("went-on", process=pid)

    def _restart(self, fault: Fault) -> None:
        started = time.time()
        self._cluster.restart(fault.target, kill=fault.kill)
        seconds = time.time() - started
        self._faults.journal.note("restarted", server=fault.target, kill=fault.kill, seconds=seconds)

    def _refill(self) -> None:
        """Give out more tokens of points that nobody has come to often enough."""
        reader, met = JournalReader(self._faults.journal), Counter[str]()
        while not self._closing.wait(_REFILL_SECONDS):
            met.update(line["point"] for line in reader.more() if line["what"] == "fault")
            self._faults.withdraw()
            for point in POINTS:
                if met[point] < self._settings.least.point:
                    self._faults.release(point)

    def _resume_holders(self) -> None:
        """Let a stopped holder of a lease go on once another process has computed in its place."""
        reader = JournalReader(self._faults.journal)
        stopped: list[tuple[dict[str, Any], float]] = []
        while stopped or not self._closing.wait(_LOOK_SECONDS):
            lines, now = reader.more(), time.monotonic()
            stopped += [(line, now) for line in lines if line.get("point") == "lease-takeover"]
            for holder, since in list(stopped):
                in_vain = self._closing.is_set() or now - since > _TAKEOVER_SECONDS
                if in_vain or any(_takes_over(line, holder) for line in lines):
                    stopped.remove((holder, since))
                    self._go_on(holder["pid"])
            time.sleep(_LOOK_SECONDS)

    def _serving(self) -> list[Service]:
        """Give the services that serve and are not stopped: a stopped one is meant to come back."""
        return [it for it in self._supervisor.services if it.serving.is_set() and it.pid and not _is_stopped(it.pid)]


def _takes_over(line: dict[str, Any], holder: dict[str, Any]) -> bool:
    return line["what"] == "began" and line["key"] == holder["key"] and line["epoch"] > holder["epoch"]


def _is_stopped(pid: int) -> bool:
    with suppress(psutil.Error):
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    return False


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
