"""The event log over Kafka: a claim holds an offset of a partition, and an acknowledgement lets the offset move on.

A topic is worked off by the consumer group of its name, and one process is one member. Offsets are the adapter's own
secret. What differs from a log in one file: an id that is appended twice is there twice; order holds within a
partition; an acknowledgement is told to Kafka a moment later, so that a crash may bring an event back.

An event released for ten seconds or more goes to a retry topic, so that its offset does not stand in the way; what
cannot be read goes to a topic for it, with the reason.
"""

import threading
import time
from collections.abc import Sequence
from typing import Final

from hagd.artifacts.clock import Clock, SystemClock
from hagd.errors import HagdError, InvalidInputError, UnavailableError
from hagd.events.envelope import Envelope
from hagd.events.kafka.consumer import ATTEMPTS_HEADER, NOT_BEFORE_HEADER, TopicConsumer
from hagd.events.kafka.producer import Headers, KafkaWriter
from hagd.events.kafka.reader import TopicReader
from hagd.events.kafka.settings import KafkaSettings
from hagd.events.kafka.window import Held, PartitionWindow
from hagd.events.log import START, Delivery, Position, Record
from hagd.events.topics import is_work_topic, retry_topic, unreadable_topic

_LOOK_SECONDS: Final = 0.05
_UNREADABLE_SECONDS: Final = 5.0


class KafkaEventLog:
    """An `EventLog` over Kafka."""

    def __init__(self, settings: KafkaSettings, *, clock: Clock | None = None) -> None:
        """Prepare the log; connections are made when they are first needed."""
        self._settings, self._clock = settings, clock or SystemClock()
        self._writer, self._reader = KafkaWriter(settings), TopicReader(settings)
        self._consumers: dict[str, TopicConsumer] = {}
        self._changed = threading.Condition()
        self._closed = False

    def append(self, topic: str, envelope: Envelope) -> bool:
        # Work spreads over all partitions, also that of one run; facts of a run keep their order.
        key = envelope.id if is_work_topic(topic) else envelope.run_id
        self._writer.write(topic, key, envelope.encode(), [("hagd-id", envelope.id.encode())])
        return True

    def claim(self, topics: Sequence[str], seconds: float) -> Delivery | None:
        deadline = time.monotonic() + self._settings.patience_seconds
        while True:
            with self._changed:
                found = self._take_oldest(topics, seconds)
                if found is None:
                    remaining = deadline - time.monotonic()
                    if remaining <= 0:
                        self._raise_trouble(topics)
                        return None
                    # Events that were released come free without anybody telling.
                    self._changed.wait(min(remaining, _LOOK_SECONDS))
                    continue
            delivery = self._delivery(*found)
            if delivery is not None:
                return delivery

    def ack(self, delivery: Delivery) -> bool:
        with self._changed:
            held = self._holder(delivery)
            if held is not None:
                PartitionWindow.finish(held)
            return held is not None

    def release(self, delivery: Delivery, delay_seconds: float = 0.0) -> bool:
        free_at = self._clock.now() + delay_seconds
        with self._changed:
            consumer, held = self._consumer_of(delivery), self._holder(delivery)
            if held is None or consumer is None:
                return False
            tier = max((tier for tier in consumer.tiers if tier <= delay_seconds), default=None)
            if tier is None:
                PartitionWindow.give_back(held, free_at)
                self._changed.notify_all()
                return True
        headers = [
            ("hagd-id", delivery.envelope.id.encode()),
            (ATTEMPTS_HEADER, b"%d" % held.attempts),
            (NOT_BEFORE_HEADER, str(free_at).encode()),
        ]
        topic = retry_topic(consumer.topic, tier)
        self._writer.write(topic, delivery.envelope.id, delivery.envelope.encode(), headers)
        return self.ack(delivery)

    def extend(self, delivery: Delivery, seconds: float) -> bool:
        with self._changed:
            held = self._holder(delivery)
            if held is not None:
                held.free_at = self._clock.now() + seconds
            return held is not None

    def read(self, topic: str, position: Position = START, limit: int = 1000) -> list[Record]:
        if self._closed:
            raise _closed()
        return self._reader.read(topic, position, limit)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            consumers = list(self._consumers.values())
        for consumer in consumers:
            consumer.close()
        self._writer.close()
        self._reader.close()

    def _take_oldest(self, topics: Sequence[str], seconds: float) -> tuple[str, int, Held] | None:
        """Claim the event of `topics` that was appended first, of those that may be claimed."""
        now = self._clock.now()
        found = [
            (held.timestamp, place, held)
            for topic in topics
            for place, window in self._consumer(topic).windows.items()
            if (held := window.oldest(now)) is not None
        ]
        if not found:
            return None
        _, place, held = min(found, key=lambda it: it[:2])
        PartitionWindow.take(held, now + seconds)
        return *place, held

    def _delivery(self, topic: str, partition: int, held: Held) -> Delivery | None:
        """Read a claimed event; None when it is none and was put away."""
        claim, value = held.claim, held.value
        try:
            if value is None:
                raise InvalidInputError("not an event: it has no content")
            record = Record(held.offset, topic, Envelope.decode(value), partition)
            return Delivery(record, claim, held.attempts)
        except InvalidInputError as error:
            self._put_away(topic, partition, held, error)
            return None

    def _put_away(self, topic: str, partition: int, held: Held, error: InvalidInputError) -> None:
        source = next(name for name, consumer in self._consumers.items() if (topic, partition) in consumer.windows)
        place = f"{topic}/{partition}/{held.offset}"
        headers: Headers = [("hagd-reason", error.message.encode()), ("hagd-source", place.encode())]
        try:
            self._writer.write(unreadable_topic(source), place, held.value, headers)
        except HagdError:
            with self._changed:
                PartitionWindow.give_back(held, self._clock.now() + _UNREADABLE_SECONDS)
            raise
        with self._changed:
            PartitionWindow.finish(held)

    def _consumer(self, topic: str) -> TopicConsumer:
        if self._closed:
            raise _closed()
        if topic not in self._consumers:
            self._consumers[topic] = TopicConsumer(topic, self._settings, self._changed)
        return self._consumers[topic]

    def _consumer_of(self, delivery: Delivery) -> TopicConsumer | None:
        place = (delivery.record.topic, delivery.record.partition)
        return next((it for it in self._consumers.values() if place in it.windows), None)

    def _holder(self, delivery: Delivery) -> Held | None:
        consumer = self._consumer_of(delivery)
        if consumer is None:
            return None
        window = consumer.windows[delivery.record.topic, delivery.record.partition]
        return window.holder(delivery.record.offset, delivery.claim)

    def _raise_trouble(self, topics: Sequence[str]) -> None:
        for topic in topics:
            if (trouble := self._consumer(topic).trouble) is not None:
                raise type(trouble)(trouble.message, trouble.hint)


def _closed() -> UnavailableError:
    return UnavailableError("the event log is closed", "open it again")
