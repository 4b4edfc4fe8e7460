"""What an outsider finds: every record of every topic from offset 0, and every object of the bucket.

Nothing of the product is imported here, so that a fault of its readers cannot hide a fault of its writers.
"""

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from kafka import KafkaConsumer
from kafka.structs import TopicPartition
from minio import Minio

_OBJECTS: Final = "objects/"
_BLOBS: Final = "blobs/"
_READERS: Final = 8
_POLL_MS: Final = 1000


@dataclass(frozen=True)
class Blob:
    """What lies under the name of a blob."""

    sha256: str
    """Of the bytes as they are."""
    size: int


@dataclass(frozen=True)
class Evidence:
    """All there is."""

    topics: dict[str, list[bytes]]
    """The values of all records, by topic."""
    objects: dict[str, bytes]
    """The small objects, by key."""
    blobs: dict[str, Blob]
    """The blobs, by the digest under which they lie."""

    def events(self, topic: str) -> list[dict[str, Any]]:
        """Give the records of a topic that are JSON objects."""
        found: list[dict[str, Any]] = []
        for value in self.topics.get(topic, []):
            try:
                event = json.loads(value)
            except ValueError:
                continue
            if isinstance(event, dict):
                found.append(event)
        return found

    def parsed(self, key: str) -> dict[str, Any] | None:
        """Give a small object that holds JSON, or None."""
        data = self.objects.get(key)
        return None if data is None else json.loads(data)

    def below(self, prefix: str) -> list[str]:
        """Give the keys of the small objects that start with a prefix, sorted."""
        return sorted(key for key in self.objects if key.startswith(prefix))


def gather(servers: str, bucket: Minio, name: str) -> Evidence:
    """Read everything."""
    objects, blobs = _read_bucket(bucket, name)
    return Evidence(_read_topics(servers), objects, blobs)


def _read_topics(servers: str) -> dict[str, list[bytes]]:
    consumer = KafkaConsumer(bootstrap_servers=servers, enable_auto_commit=False, auto_offset_reset="earliest")
    try:
        found: dict[str, list[bytes]] = {}
        for topic in sorted(consumer.topics()):
            partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]
            if topic.startswith("hagd."):
                found[topic] = list(_read(consumer, partitions))
        return found
    finally:
        consumer.close(autocommit=False)


def _read(consumer: KafkaConsumer, partitions: list[TopicPartition]) -> Iterable[bytes]:
    consumer.assign(partitions)
    consumer.seek_to_beginning(*partitions)
    ends: dict[TopicPartition, int] = consumer.end_offsets(partitions)
    if any(consumer.beginning_offsets(partitions).values()):
        raise RuntimeError(f"{partitions[0].topic} does not start at offset 0 any more: nothing can be proved")
    while any((consumer.position(it) or 0) < ends[it] for it in partitions):
        for records in consumer.poll(timeout_ms=_POLL_MS).values():
            yield from (record.value or b"" for record in records)


def _read_bucket(bucket: Minio, name: str) -> tuple[dict[str, bytes], dict[str, Blob]]:
    keys = [it.object_name or "" for it in bucket.list_objects(name, recursive=True) if not it.is_dir]

    def read(key: str) -> bytes:
        answer = bucket.get_object(name, key)
        try:
            return answer.read()
        finally:
            answer.close()
            answer.release_conn()

    def look(key: str) -> Blob:
        data = read(key)
        return Blob(hashlib.sha256(data).hexdigest(), len(data))

    with ThreadPoolExecutor(_READERS) as pool:
        small = [key for key in keys if key.startswith(_OBJECTS)]
        objects = dict(zip((key.removeprefix(_OBJECTS) for key in small), pool.map(read, small), strict=True))
        large = [key for key in keys if key.startswith(_BLOBS)]
        names = (key.removeprefix(_BLOBS).replace("/", "") for key in large)
        return objects, dict(zip(names, pool.map(look, large), strict=True))
