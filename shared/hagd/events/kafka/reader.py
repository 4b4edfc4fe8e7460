"""Reading a topic of Kafka for observers: no group, no offsets but the reader's own."""

import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from kafka import KafkaConsumer
from kafka.errors import KafkaError, KafkaTimeoutError
from kafka.structs import TopicPartition

from hagd.errors import InvalidInputError, UnservedVersionError
from hagd.events.envelope import Envelope
from hagd.events.kafka.connection import connect
from hagd.events.kafka.failures import no_topic, translated
from hagd.events.kafka.settings import MAX_RECORD_BYTES, KafkaSettings
from hagd.events.log import Position, Record

T = TypeVar("T")
_POLL_MS: Final = 100
_CLOSE_MS: Final = 2_000


class TopicReader:
    """A consumer that is made when it is first needed. Safe to use from several threads, one at a time reads."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._consumer: KafkaConsumer | None = None
        self._lock = threading.Lock()

    def read(self, topic: str, position: Position, limit: int) -> list[Record]:
        """Give what is in a topic now, from a position on; what is no event is passed over.

        Raises:
            UnavailableError: the brokers do not answer, or have no such topic.
        """
        return self.read_as(_record, topic, position, limit)

    def read_as(self, parse: Callable[[Any], T | None], topic: str, position: Position, limit: int) -> list[T]:
        """Give what `parse` makes of the records of a topic, from a position on; errors as of `read`."""
        with self._lock, translated(self._settings.servers):
            try:
                return self._read(parse, topic, position, limit)
            except KafkaError:
                self._close()
                raise

    def exists(self, topic: str) -> bool:
        """Say whether there is a topic.

        Raises:
            UnavailableError: the brokers do not answer.
        """
        with self._lock, translated(self._settings.servers):
            return bool(self._opened().partitions_for_topic(topic))

    def close(self) -> None:
        """Close the consumer, if there is one."""
        with self._lock:
            self._close()

    def _read(self, parse: Callable[[Any], T | None], topic: str, position: Position, limit: int) -> list[T]:
        consumer = self._opened()
        there: set[int] | None = consumer.partitions_for_topic(topic)
        if not there:
            raise no_topic(topic, self._settings.servers)
        places = [TopicPartition(topic, number) for number in sorted(there)]
        ends: dict[TopicPartition, int] = consumer.end_offsets(places)
        starts: dict[TopicPartition, int] = consumer.beginning_offsets(places)
        following = {place: max(position.get(place.partition, 0), starts[place]) for place in places}
        unread = [place for place in places if following[place] < ends[place]]
        if not unread:
            return []
        consumer.assign(unread)
        for place in unread:
            consumer.seek(place, following[place])
        records: list[T] = []
        heard_at = time.monotonic()
        while len(records) < limit and any((consumer.position(place) or 0) < ends[place] for place in unread):
            fetched: dict[TopicPartition, list[Any]] = consumer.poll(_POLL_MS, max_records=limit - len(records))
            records += [event for batch in fetched.values() for raw in batch if (event := parse(raw)) is not None]
            if fetched:
                heard_at = time.monotonic()
            elif time.monotonic() - heard_at > self._settings.delivery_timeout_seconds:
                # A poll of brokers that went silent just gives nothing, for as long as they are asked.
                raise KafkaTimeoutError(f"{topic} has records that do not come")
        return records

    def _opened(self) -> KafkaConsumer:
        if self._consumer is None:
            self._consumer = connect(
                KafkaConsumer,
                self._settings,
                metrics_enabled=False,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                allow_auto_create_topics=False,
                fetch_max_wait_ms=_POLL_MS,
                max_partition_fetch_bytes=2 * MAX_RECORD_BYTES,
            )
        return self._consumer

    def _close(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close(autocommit=False, timeout_ms=_CLOSE_MS)


def _record(raw: Any) -> Record | None:
    try:
        return Record(raw.offset, raw.topic, Envelope.decode(raw.value or b""), raw.partition, raw.timestamp / 1000)
    except (InvalidInputError, UnservedVersionError):
        return None
