"""Services as an operator starts them, each a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


@dataclass
class ServiceProcess:
    """A running service."""

    name: str
    process: "subprocess.Popen[bytes]"
    address: str
    log_path: Path

    def is_serving(self, seconds: float) -> bool:
        """Ask its health, waiting for the connection."""
        with grpc.insecure_channel(self.address) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=seconds, wait_for_ready=True)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def rss_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def queued_seconds(self) -> float:
        """Give how long its main thread was ready to go on while others had the processors."""
        return int(Path(f"/proc/{self.process.pid}/schedstat").read_text().split()[1]) / 1e9

    def has_loaded(self, library: str) -> bool:
        return library in Path(f"/proc/{self.process.pid}/maps").read_text()

    def told(self) -> list[str]:
        """Give what it wrote to stderr."""
        return self.log_path.read_text().splitlines()

    def kill(self) -> None:
        """End it as a machine ends that loses its power."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """End it, whatever state it is in."""
        if self.process.poll() is None:
            self.kill()
        if self.process.stdout is not None:
            self.process.stdout.close()


def start_service(
    name: str, folder: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> ServiceProcess:
    """Start a service on a free port and wait for the line with its address."""
    number = len(list(folder.glob(f"{name}-*.log")))
    log_path = folder / f"{name}-{number}.log"
    command = [sys.executable, "-m", f"hagd_{name}", "--listen", "127.0.0.1:0", "--threads", "1", *arguments]
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, env={**os.environ, **(environment or {})}
        )
    service = ServiceProcess(name, process, "", log_path)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        service.end()
        raise AssertionError(f"{name} did not start: {log_path.read_text()}")
    service.address = json.loads(line)["address"]
    return service


@contextmanager
def ended_at_last(services: list[ServiceProcess]) -> Generator[list[ServiceProcess]]:
    """End every service of a list that grows meanwhile."""
    try:
        yield services
    finally:
        for service in services:
            service.end()
