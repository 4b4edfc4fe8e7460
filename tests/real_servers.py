"""Fixtures of real servers, one of each kind per test session, started when a test first asks for it.

Without a server the test is skipped with the reason; with HAGD_REQUIRE_SERVERS=1 it fails.
"""

from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NoReturn, TypeVar

import pytest

from servers.found import NoServerError, S3Address, found_kafka, found_s3, must_have_servers

T = TypeVar("T")


@contextmanager
def _or_skip(found: AbstractContextManager[T]) -> Generator[T]:
    try:
        server = found.__enter__()
    except NoServerError as error:
        give_up(str(error))
    try:
        yield server
    finally:
        found.__exit__(None, None, None)


def give_up(reason: str) -> NoReturn:
    """Skip a test for want of a server or what it takes to use one; fail it where that must not be."""
    if must_have_servers():
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def kafka_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with _or_skip(found_kafka(tmp_path_factory.mktemp("kafka"))) as address:
        yield address


@pytest.fixture(scope="session")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Address]:
    with _or_skip(found_s3("minio", tmp_path_factory.mktemp("minio"))) as address:
        yield address


@pytest.fixture(scope="session")
def versitygw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Address]:
    with _or_skip(found_s3("versitygw", tmp_path_factory.mktemp("versitygw"))) as address:
        yield address


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Address]:
    """A server in this process, for tests that need no real one."""
    # Takes a second to load, which most tests need not wait for.
    from moto_server import running_moto  # noqa: PLC0415

    with running_moto() as server:
        yield server


def kafka_param(name: str) -> Any:
    """Give a parameter of tests that need a broker. One worker runs them all, so that one broker is started."""
    return pytest.param(name, marks=[pytest.mark.kafka, pytest.mark.servers, pytest.mark.xdist_group("kafka")])


def s3_param(name: str) -> Any:
    """Give a parameter of tests that need a real S3 server."""
    return pytest.param(name, marks=[pytest.mark.s3, pytest.mark.servers, pytest.mark.xdist_group("s3")])
