"""Fixtures that every test may ask for, and what none of them may leave behind."""

import logging
from collections.abc import Iterator

import pytest
import structlog

from hub_server import hub
from ray_cluster import ray_address, ray_spans
from real_servers import kafka_address, minio, moto, versitygw

__all__ = ["hub", "kafka_address", "loggers", "minio", "moto", "ray_address", "ray_spans", "versitygw"]


@pytest.fixture(autouse=True)
def loggers() -> Iterator[None]:
    """Leave the loggers of this process as they were: what a service sets up writes to the stderr of its test alone."""
    root, own = logging.getLogger(), logging.getLogger("hagd")
    handlers, levels = list(root.handlers), (root.level, own.level)
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    own.setLevel(levels[1])
