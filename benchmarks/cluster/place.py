"""Broker, store and topics of a benchmark, fresh for each, and the environment in which services find them."""

import secrets
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from minio.credentials.providers import StaticProvider

from benchmarks.cluster.distribution import install
from benchmarks.cluster.stages import ENTRY_POINTS, STAGES
from hagd.artifacts.s3 import S3Store
from hagd.artifacts.s3_client import S3Settings
from hagd.events.kafka.admin import Durability, create_topics, plan_topics
from hagd.events.kafka.log import KafkaEventLog
from hagd.events.kafka.settings import KafkaSettings
from servers.found import S3Address, found_kafka, found_s3

PARTITIONS: Final = 4


@dataclass(frozen=True)
class Place:
    """A cluster without services."""

    folder: Path
    kafka: str
    s3: S3Address
    installed: dict[str, str]
    """The variables that let a process find the stages."""

    def bucket(self) -> S3Settings:
        """Name a bucket that nobody else uses."""
        return S3Settings(self.s3.endpoint, f"bench-{secrets.token_hex(6)}")

    def open_store(self, bucket: S3Settings) -> S3Store:
        """Open a bucket, making it when it is missing."""
        return S3Store(bucket, StaticProvider(self.s3.access_key, self.s3.secret_key))

    def open_log(self) -> KafkaEventLog:
        """Open the log as one more process."""
        return KafkaEventLog(KafkaSettings(self.kafka))

    def environment(self, bucket: S3Settings) -> dict[str, str]:
        """Give the settings of a service."""
        return {
            **self.installed,
            "HAGD_LOG": "kafka",
            "HAGD_KAFKA_SERVERS": self.kafka,
            "HAGD_STORE": bucket.location,
            "HAGD_S3_ACCESS_KEY": self.s3.access_key,
            "HAGD_S3_SECRET_KEY": self.s3.secret_key,
        }


@contextmanager
def running_place(folder: Path, stage_ids: Iterable[str] = STAGES) -> Generator[Place]:
    """Give broker and store with the topics of some stages; they end with the context.

    Raises:
        NoServerError: one of them is not there; the message says how to get it.
    """
    installed = install(folder / "stages", ENTRY_POINTS)
    for name in ("kafka", "minio"):
        (folder / name).mkdir()
    with found_kafka(folder / "kafka") as kafka, found_s3("minio", folder / "minio") as s3:
        create_topics(KafkaSettings(kafka), plan_topics(stage_ids, {}, PARTITIONS, Durability(1, 1)))
        yield Place(folder, kafka, s3, installed)
