"""Service processes as an operator starts them, each ended by its id at last."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

_END_SECONDS = 60.0


@dataclass
class Service:
    """A service that runs."""

    name: str
    address: str
    process: "subprocess.Popen[bytes]"
    log_path: Path
    started_at: float
    """On the monotonic clock."""
    serving_seconds: float = math.nan
    """From its start until it was SERVING, once that was waited for."""

    @property
    def pid(self) -> int:
        return self.process.pid

    def rss_bytes(self) -> int:
        """Give the resident memory of the driver alone."""
        return int(psutil.Process(self.pid).memory_info().rss)

    def has_loaded(self, library: str) -> bool:
        """Say whether the driver has a file of that name in its memory."""
        return library in Path(f"/proc/{self.pid}/maps").read_text()

    def queued_seconds(self) -> float:
        """Give how long its threads that live were ready to run and had no processor, because others had them."""
        tasks = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return max((int(task.read_text().split()[1]) for task in tasks), default=0) / 1e9

    def workers(self) -> frozenset[int]:
        """Give the ids of its worker processes."""
        return frozenset(child.pid for child in psutil.Process(self.pid).children(recursive=True))

    def await_serving(self, seconds: float = 60.0) -> None:
        """Wait until its health is SERVING.

        Raises:
            RpcError: it does not answer in time.
            RuntimeError: it answers that it does not serve.
        """
        with grpc.insecure_channel(self.address) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=seconds, wait_for_ready=True)
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            raise RuntimeError(f"{self.name} does not serve: {self.log_path.read_text()[-2000:]}")
        self.serving_seconds = time.monotonic() - self.started_at

    def end(self) -> None:
        """Ask it to end, and end it by force when it takes too long. Quiet when it has ended."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        if self.process.stdin is not None:
            self.process.stdin.close()


def start_service(name: str, folder: Path, environment: Mapping[str, str], *arguments: str) -> Service:
    """Start a service on a free port of loopback and wait for the line with its address.

    It ends with this process, whatever happens to that, because its stdin does.

    Raises:
        RuntimeError: it ended before; the message holds the end of its log.
    """
    log_path = folder / f"{name}-{len(list(folder.glob(f'{name}-*.log')))}.log"
    usual = ["--listen", "127.0.0.1:0", "--threads", "1", "--until-eof"]
    started_at = time.monotonic()
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", f"hagd_{name}", *usual, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, **environment},
        )
    line = process.stdout.readline() if process.stdout is not None else b""
    service = Service(name, json.loads(line)["address"] if line else "", process, log_path, started_at)
    if not line:
        service.end()
        raise RuntimeError(f"{name} did not start: {log_path.read_text()[-2000:]}")
    return service


@contextmanager
def running_service(name: str, folder: Path, environment: Mapping[str, str], *arguments: str) -> Generator[Service]:
    """Give a service that ends with the context; errors as `start_service`."""
    service = start_service(name, folder, environment, *arguments)
    try:
        service.await_serving()
        yield service
    finally:
        service.end()
