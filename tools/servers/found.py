"""Finding a server for a test: by address in the environment, else one of `make servers`, else the reason why not.

HAGD_TEST_KAFKA     `host:port` of a broker on which tests may make topics
HAGD_TEST_S3        `http://access-key:secret-key@host:port` of a server on which tests may make buckets
"""

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from servers.kafka import running_kafka
from servers.places import has_kafka, has_program
from servers.s3 import Kind, running_s3


class NoServerError(Exception):
    """There is no such server here; the message says how to get one."""


@dataclass(frozen=True)
class S3Address:
    """A server and its keys."""

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)


def must_have_servers() -> bool:
    """Say whether a test that finds no server has to fail."""
    return os.environ.get("HAGD_REQUIRE_SERVERS") == "1"


@contextmanager
def found_kafka(folder: Path) -> Generator[str]:
    """Give `host:port` of a broker.

    Raises:
        NoServerError: there is none.
    """
    given = os.environ.get("HAGD_TEST_KAFKA")
    if given:
        yield given
        return
    if not has_kafka() or shutil.which("java") is None:
        raise NoServerError("no Kafka: set HAGD_TEST_KAFKA, or run `make servers`")
    with running_kafka(folder) as kafka:
        yield kafka.address


@contextmanager
def found_s3(kind: Kind, folder: Path) -> Generator[S3Address]:
    """Give a server; one in the environment stands for MinIO.

    Raises:
        NoServerError: there is none.
    """
    given = urlsplit(os.environ.get("HAGD_TEST_S3", ""))
    if kind == "minio" and given.hostname:
        endpoint = f"{given.scheme}://{given.hostname}:{given.port}"
        yield S3Address(endpoint, given.username or "", given.password or "")
        return
    if not has_program(kind):
        hint = "set HAGD_TEST_S3, or run" if kind == "minio" else "run"
        raise NoServerError(f"no {kind}: {hint} `make servers`")
    with running_s3(kind, folder) as server:
        yield S3Address(f"http://{server.address}", server.access_key, server.secret_key)
