"""Real S3 servers, each over a folder of its own: MinIO, and versitygw, which has nothing in common with it."""

import secrets
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from servers.places import BINARIES
from servers.process import ServerProcess, free_ports

Kind = Literal["minio", "versitygw"]


@dataclass(frozen=True)
class S3Server:
    """A server that was described; `start` lets it run, and again after it was stopped or killed."""

    address: str
    """`host:port`, plain HTTP."""
    access_key: str
    secret_key: str = field(repr=False)
    process: ServerProcess
    health: str
    """The path that answers 200 once the server serves."""

    def start(self) -> None:
        """Start it and wait until it serves.

        Raises:
            ServerDidNotStartError: it ended, or does not serve in time.
        """
        self.process.start(self._is_ready)

    def _is_ready(self) -> bool:
        try:
            # Loopback, and an address that was made here.
            with urllib.request.urlopen(f"http://{self.address}{self.health}", timeout=1.0) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False


def s3_server(kind: Kind, folder: Path) -> S3Server:
    """Describe a server over a folder, which is made when missing, with keys of its own."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (port,) = free_ports(1)
    address, access_key, secret_key = f"127.0.0.1:{port}", secrets.token_hex(8), secrets.token_hex(16)
    data = str(folder / "data")
    if kind == "minio":
        command = [str(BINARIES / "minio"), "server", "--quiet", "--address", address, data]
        environment = {
            "MINIO_ROOT_USER": access_key,
            "MINIO_ROOT_PASSWORD": secret_key,
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
            "MINIO_CALLHOME_ENABLE": "off",
        }
        health = "/minio/health/ready"
    else:
        command = [str(BINARIES / "versitygw"), "--port", address, "--health", "/health", "--quiet", "posix", data]
        environment = {"ROOT_ACCESS_KEY": access_key, "ROOT_SECRET_KEY": secret_key}
        health = "/health"
    return S3Server(address, access_key, secret_key, ServerProcess(kind, command, folder, environment), health)


@contextmanager
def running_s3(kind: Kind, folder: Path) -> Generator[S3Server]:
    """Give a server that ends with the context. Takes about a second.

    Raises:
        ServerDidNotStartError: it ended, or does not serve in time.
    """
    server = s3_server(kind, folder)
    try:
        server.start()
        yield server
    finally:
        server.process.stop()
