"""A server process: started on free ports, waited for, and ended by its id, also when this process is killed."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

_LOOK_SECONDS: Final = 0.05
_STOP_SECONDS: Final = 20.0


class ServerDidNotStartError(Exception):
    """A server ended or did not answer in time; the message holds the end of its log."""


def free_ports(count: int) -> list[int]:
    """Give TCP ports of 127.0.0.1 that nobody uses, all different."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


class ServerProcess:
    """One server, which may be stopped, killed, suspended and started again over the same data."""

    def __init__(self, name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        """Describe it; nothing runs yet.

        Args:
            name: what to call it in errors.
            command: the program and its arguments.
            folder: an existing folder, in which it runs and writes `<name>.log`.
            environment: variables beyond those of this process.
        """
        self.name, self.log_path = name, folder / f"{name}.log"
        self._command, self._folder, self._environment = list(command), folder, dict(environment)
        self._server: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Give the process id while it runs."""
        if self._server is None:
            raise RuntimeError(f"{self.name} does not run")
        return self._server.pid

    def start(self, is_ready: Callable[[], bool], seconds: float = 300.0) -> None:
        """Start it and wait until it is ready.

        Raises:
            ServerDidNotStartError: it ended, or was not ready in time; it does not run afterwards.
        """
        with self.log_path.open("ab") as log:
            self._server = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env={**os.environ, **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._guard = _guard(self._server.pid)
        deadline = time.monotonic() + seconds
        while not is_ready():
            if self._server.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise ServerDidNotStartError(f"{self.name} did not start:\n{self.log_path.read_text()[-4000:]}")
            time.sleep(_LOOK_SECONDS)

    def stop(self) -> None:
        """Ask it to end and wait; end it by force when it does not. Quiet when it does not run."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once. Quiet when it does not run."""
        self._end(signal.SIGKILL)

    def suspend(self) -> None:
        """Let it neither work nor answer until `resume`."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        server, guard = self._server, self._guard
        self._server = self._guard = None
        if server is None or guard is None:
            return
        with suppress(ProcessLookupError):
            server.send_signal(how)
            # One that is suspended would not meet the signal.
            server.send_signal(signal.SIGCONT)
        try:
            server.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        # Before the id of the server can belong to somebody else.
        guard.kill()
        guard.wait()
        _pipe(guard).close()


def _guard(pid: int) -> subprocess.Popen[bytes]:
    """Start what ends a server once this process is gone, however it went: its end closes the pipe."""
    return subprocess.Popen(["sh", "-c", f"cat >/dev/null; kill -9 {pid}"], stdin=subprocess.PIPE)


def _pipe(guard: subprocess.Popen[bytes]) -> IO[bytes]:
    assert guard.stdin is not None  # noqa: S101 - opened as a pipe above
    return guard.stdin
