"""Starts the services of a soak and starts those again that have died, as an operator's supervisor does."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from benchmarks.soak.faults import FOLDER_VARIABLE, Faults

_LOOK_SECONDS: Final = 0.1
_STOP_SECONDS: Final = 40.0
_START_SECONDS: Final = 120.0


@dataclass
class Service:
    """One place of a service: whoever fills it has the same address."""

    name: str
    """The service, with the number of the replica."""
    command: list[str]
    address: str
    log_path: Path
    process: "subprocess.Popen[bytes] | None" = None
    serving: threading.Event = field(default_factory=threading.Event)
    """Set once the process has told its address."""

    @property
    def pid(self) -> int | None:
        """Give the process, or None while there is none."""
        process = self.process
        return process.pid if process is not None and process.poll() is None else None

    def workers(self) -> list[int]:
        """Give the worker processes."""
        with suppress(psutil.Error):
            if (pid := self.pid) is not None:
                return [child.pid for child in psutil.Process(pid).children()]
        return []


class Supervisor:
    """Watches over services until it is closed; then none of them is left."""

    def __init__(self, faults: Faults, environment: Mapping[str, str]) -> None:
        """Take the variables of every service beside those of this process."""
        self.services: list[Service] = []
        self._faults, self._environment = faults, {**os.environ, **environment}
        self._environment[FOLDER_VARIABLE] = str(faults.folder)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    def add(self, name: str, service: str, port: int, *flags: str) -> None:
        """Name a service to be run."""
        address = f"127.0.0.1:{port}"
        command = [sys.executable, "-P", "-m", "benchmarks.soak.service", service]
        command += ["--listen", address, "--threads", "1", "--until-eof", *flags]
        self.services.append(Service(name, command, address, self._faults.folder / f"{name}.log"))

    def start(self) -> None:
        """Start all services, and wait until each of them serves.

        Raises:
            TimeoutError: one does not; its log is in the folder.
        """
        self._thread.start()
        deadline = time.monotonic() + _START_SECONDS
        for service in self.services:
            if not service.serving.wait(max(0.0, deadline - time.monotonic())):
                raise TimeoutError(f"{service.name} does not serve: {service.log_path}")

    def close(self) -> None:
        """End all services in order, those that do not heed it by force."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        running = [service.process for service in self.services if service.process is not None]
        for process in running:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.terminate()
        deadline = time.monotonic() + _STOP_SECONDS
        for process in running:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            _close_pipes(process)

    def leftovers(self) -> list[str]:
        """Give the processes of this soak that still run, by what they were started with."""
        found: list[str] = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                own = process.environ().get(FOLDER_VARIABLE) == str(self._faults.folder)
                if own and process.pid != os.getpid():
                    found.append(" ".join(process.cmdline()))
        return found

    def _watch(self) -> None:
        while not self._closing.wait(_LOOK_SECONDS):
            for service in self.services:
                process = service.process
                if process is not None and process.poll() is not None:
                    self._faults.journal.note(
                        "died", process=process.pid, service=service.name, code=process.returncode
                    )
                    _close_pipes(process)
                    service.process = process = None
                if process is None and not self._closing.is_set():
                    self._launch(service)

    def _launch(self, service: Service) -> None:
        service.serving.clear()
        with service.log_path.open("ab") as log:
            # A session of its own, so that Ctrl-C reaches this process alone.
            process = subprocess.Popen(
                service.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )
        service.process = process
        self._faults.journal.note("started", process=process.pid, service=service.name)
        threading.Thread(target=_hear, args=(service, process), daemon=True).start()


def _hear(service: Service, process: "subprocess.Popen[bytes]") -> None:
    """Wait for the line with the address."""
    assert process.stdout is not None  # noqa: S101 - opened as a pipe
    with suppress(ValueError):
        if json.loads(process.stdout.readline() or b"null"):
            service.serving.set()


def _close_pipes(process: "subprocess.Popen[bytes]") -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError, ValueError):
                pipe.close()
