"""Broker and store of a soak, on loopback, over folders of their own: what can be killed and comes back."""

from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import urllib3
from kafka import KafkaAdminClient
from minio import Minio
from urllib3.util import Retry, Timeout

from hagd.events.kafka.admin import Durability, create_topics, plan_topics
from hagd.events.kafka.settings import KafkaSettings
from hagd.events.topics import ENTRY_STAGE, LANES, requested_topic
from servers.found import NoServerError
from servers.kafka import Kafka, running_kafka
from servers.places import has_kafka, has_program
from servers.s3 import S3Server, running_s3

BUCKET: Final = "soak"
_LATEST: Final = -1
"""What Kafka calls the offset behind the last record."""


@dataclass(frozen=True)
class Cluster:
    """One broker and one store, serving."""

    kafka: Kafka
    s3: S3Server

    @property
    def environment(self) -> dict[str, str]:
        """Give the variables by which services find both."""
        return {
            "HAGD_LOG": "kafka",
            "HAGD_KAFKA_SERVERS": self.kafka.address,
            "HAGD_STORE": f"s3:http://{self.s3.address}/{BUCKET}",
            "HAGD_S3_ACCESS_KEY": self.s3.access_key,
            "HAGD_S3_SECRET_KEY": self.s3.secret_key,
        }

    def bucket(self) -> Minio:
        """Give a client of the store that does not wait long for it."""
        http = urllib3.PoolManager(timeout=Timeout(connect=2.0, read=10.0), retries=Retry(1), maxsize=16)
        keys = (self.s3.access_key, self.s3.secret_key)
        return Minio(self.s3.address, *keys, secure=False, http_client=http)

    def unfinished(self, stages: Sequence[str]) -> int:
        """Give how many records of the topics of work of some stages no group has acknowledged."""
        # What is known to type checkers of this class is older than the class.
        client: Any = KafkaAdminClient
        count = 0
        with closing(client(bootstrap_servers=self.kafka.address)) as admin:
            for topic in (requested_topic(stage, lane) for stage in (*stages, ENTRY_STAGE) for lane in LANES):
                for group in (topic, f"{topic}.retry"):
                    done = admin.list_group_offsets([group]).get(group, {})
                    ends = admin.list_partition_offsets(dict.fromkeys(done, _LATEST)) if done else {}
                    count += sum(max(0, ends[place].offset - it.offset) for place, it in done.items())
        return count

    def restart(self, which: str, *, kill: bool) -> None:
        """End broker or store, by force or in order, and start it again over its data."""
        server = self.kafka if which == "broker" else self.s3
        (server.process.kill if kill else server.process.stop)()
        server.start()


@contextmanager
def running_cluster(folder: Path, stages: Sequence[str], partitions: int) -> Generator[Cluster]:
    """Give a cluster with all topics and an empty bucket; it ends with the context.

    Raises:
        NoServerError: Kafka or MinIO was not obtained.
        ServerDidNotStartError: one does not start.
    """
    if not has_kafka() or not has_program("minio"):
        raise NoServerError("a soak needs Kafka and MinIO: run `make servers`")
    with running_kafka(folder / "kafka") as kafka, running_s3("minio", folder / "minio") as s3:
        cluster = Cluster(kafka, s3)
        cluster.bucket().make_bucket(BUCKET)
        create_topics(KafkaSettings(kafka.address), plan_topics(stages, {}, partitions, Durability(1, 1)))
        yield cluster
