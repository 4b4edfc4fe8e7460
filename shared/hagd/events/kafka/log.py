"""The event log over Kafka: a claim holds an offset of a partition, and an acknowledgement lets the offset move on.

A topic is worked off by the consumer group of its name, and one process is one member. Offsets are the adapter's own
secret. What differs from a log in one file: an id that is appended twice is there twice; order holds within a
partition; an acknowledgement is told to Kafka a moment later, so that a crash may bring an event back.

An event released for ten seconds or more goes to a retry topic, so that its offset does not stand in the way; retry
topics have a group beside, so that they take no part in how the topic itself is shared out. What cannot be read goes
to a topic for it, with the reason.
"""

import logging
import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from hagd.artifacts.clock import Clock, SystemClock
from hagd.errors import HagdError, InvalidInputError, UnavailableError
from hagd.events.cloud_event import CloudEvent, Headers, binary_headers, headers_of
from hagd.events.envelope import MAX_EVENT_BYTES, Envelope
from hagd.events.kafka.consumer import ATTEMPTS_HEADER, FAILURES_HEADER, NOT_BEFORE_HEADER, GroupMember
from hagd.events.kafka.producer import KafkaWriter
from hagd.events.kafka.reader import TopicReader
from hagd.events.kafka.settings import KafkaSettings
from hagd.events.kafka.unfinished import unfinished_events
from hagd.events.kafka.window import Held, PartitionWindow
from hagd.events.log import START, Delivery, Position, ReadRecord, Record, UnreadableRecord
from hagd.events.topics import RETRY_TIERS, is_work_topic, retry_topic, stage_of, unreadable_topic
from hagd.telemetry.metrics import REQUESTS_SETTLED, UNREADABLE_RECORDS, Meter, SilentMeter
from hagd.telemetry.traceparent import HEADER

_LOOK_SECONDS: Final = 0.25
_UNREADABLE_SECONDS: Final = 5.0
_OVERSIZE_KEPT_BYTES: Final = 64 << 10
_HEADER_BYTES: Final = 32 << 10
_KEPT_HEADER_BYTES: Final = 1 << 10
_KEPT_HEADERS: Final = 16
_REASON_HEADER: Final = "hagd-reason"
_SOURCE_HEADER: Final = "hagd-source"
_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Taken:
    """An event that was claimed and not read yet."""

    asked: str
    """The topic that was asked for; `topic` may be one of its retry topics."""
    topic: str
    partition: int
    held: Held
    value: bytes


class KafkaEventLog:
    """An `EventLog` over Kafka."""

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        clock: Clock | None = None,
        readers: Mapping[str, ReadRecord] | None = None,
        meter: Meter | None = None,
    ) -> None:
        """Prepare the log; connections are made when they are first needed.

        Args:
            settings: where the brokers are.
            clock: time; the machine's when None.
            readers: by topic, what reads it where other systems write to it too.
            meter: is told of what waits for a newer release, and of what is put away; nobody is when None.
        """
        self._settings, self._clock, self._meter = settings, clock or SystemClock(), meter or SilentMeter()
        self._readers = dict(readers or {})
        self._reader = TopicReader(settings)
        self._writer = KafkaWriter(settings, self._reader.exists)
        self._members: dict[str, GroupMember] = {}
        self._retrying: dict[str, GroupMember] = {}
        """By topic, those who work off its retry topics."""
        self._changed = threading.Condition()
        self._closed = False

    def append(self, topic: str, envelope: Envelope) -> bool:
        # Work spreads over all partitions, also that of one run; facts of a run keep their order.
        key = envelope.id if is_work_topic(topic) else envelope.run_id
        # What is worked off is for stages alone; all else is for anybody to read.
        told = [] if is_work_topic(topic) else headers_of(topic, envelope, self._clock.now())
        self._writer.write(topic, key, envelope.encode(), [*_headers(envelope), *told])
        return True

    def write_cloud_event(self, topic: str, key: str, event: CloudEvent) -> None:
        """Write an event as other systems do, in binary mode; its data are bytes. Errors as of `append`."""
        self._writer.write(topic, key, event.data, binary_headers(event))

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
            delivery = self._delivery(found)
            if delivery is not None:
                return delivery

    def ack(self, delivery: Delivery) -> bool:
        with self._changed:
            held = self._holder(delivery)
            if held is not None:
                PartitionWindow.finish(held)
            return held is not None

    def release(self, delivery: Delivery, delay_seconds: float = 0.0, *, failed: bool = False) -> bool:
        free_at = self._clock.now() + delay_seconds
        with self._changed:
            found = self._find(delivery)
            if found is None:
                return False
            topic, held = found
            held.failures += failed
            retry = self._retry_topics(topic, delay_seconds)
            if not retry:
                PartitionWindow.give_back(held, free_at)
                self._changed.notify_all()
                return True
            value, headers = held.value, _retry_headers(held, free_at)
        # Byte for byte: what a newer writer or another system wrote may hold more than was read of it.
        record = delivery.record
        self._writer.write(retry[-1], _place(record.topic, record.partition, record.offset), value, headers)
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

    def waiting(self, topics: Sequence[str], limit: int = 1000) -> list[Record]:
        """Give what is unfinished, as `EventLog` says; joins no group, and asks the cluster of topics of others."""
        with self._changed:
            others = [topic for topic in topics if topic not in self._members]
            members = [
                (topic, each[topic]) for topic in topics for each in (self._members, self._retrying) if topic in each
            ]
            found = [
                _Taken(topic, *place, held, held.value or b"")
                for topic, member in members
                for place, window in member.windows.items()
                for held in window.unfinished()
            ]
        oldest = sorted(found, key=lambda it: it.held.timestamp)[:limit]
        own = [record for taken in oldest if (record := self._readable(taken)) is not None]
        seen = unfinished_events(self._settings, self._reader, others, limit)
        return sorted([*own, *seen], key=lambda it: it.at)[:limit]

    def unreadable(self, topic: str, limit: int = 1000) -> list[UnreadableRecord]:
        name = unreadable_topic(topic)
        if not self._reader.exists(name):
            return []
        found = self._reader.read_as(_unreadable, name, START, limit)
        # A crash before the offset moved on lets one be put away twice.
        once = {record.source: record for record in reversed(found)}
        return sorted(once.values(), key=lambda it: it.at)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            members = [*self._members.values(), *self._retrying.values()]
        for member in members:
            member.stop()
        for member in members:
            member.close()
        self._writer.close()
        self._reader.close()

    def _take_oldest(self, topics: Sequence[str], seconds: float) -> _Taken | None:
        """Claim the event that was appended first, of those of the first topic of which any may be claimed."""
        now = self._clock.now()
        for topic in topics:
            found = [
                _Taken(topic, *place, held, held.value or b"")
                for member in self._members_of(topic)
                for place, window in member.windows.items()
                if (held := window.oldest(now)) is not None
            ]
            oldest = min(found, key=lambda it: it.held.timestamp, default=None)
            if oldest is not None:
                PartitionWindow.take(oldest.held, now + seconds)
                return oldest
        return None

    def _delivery(self, taken: _Taken) -> Delivery | None:
        """Read a claimed event; None when it is none and was put away."""
        held = taken.held
        claim, attempts, failures = held.claim, held.attempts, held.failures
        try:
            record = self._record(taken)
        except HagdError as error:
            if error.transient:
                self._put_off(taken, error)
            else:
                self._put_away(taken, error)
            return None
        return Delivery(record, claim, attempts, failures)

    def _record(self, taken: _Taken) -> Record:
        """Read an event; its trace stands in a header when another system wrote it.

        Raises:
            HagdError: it is none, is refused, or is one of a newer version.
        """
        _check_size(taken)
        held, reader = taken.held, self._readers.get(taken.asked)
        envelope = reader(held.headers, taken.value) if reader else Envelope.decode(taken.value)
        envelope = replace(envelope, traceparent=envelope.traceparent or held.traceparent)
        # What could not be written on to another topic would be found out too late.
        envelope.encode()
        return Record(held.offset, taken.topic, envelope, taken.partition, held.timestamp)

    def _readable(self, taken: _Taken) -> Record | None:
        try:
            return self._record(taken)
        except HagdError:
            return None

    def _put_off(self, taken: _Taken, error: HagdError) -> None:
        """Let what a newer reader will understand wait, as it is, out of the way where there is a retry topic."""
        _LOG.warning("a record of %s waits: %s", taken.topic, error.message)
        self._meter.add(REQUESTS_SETTLED, stage=stage_of(taken.asked), outcome="unserved")
        held, tier = taken.held, min(RETRY_TIERS)
        free_at = self._clock.now() + tier
        with self._changed:
            retry = self._retry_topics(taken.asked, tier)
            if not retry:
                PartitionWindow.give_back(held, free_at)
                return
        place = _place(taken.topic, taken.partition, held.offset)
        self._writer.write(retry[-1], place, taken.value, _retry_headers(held, free_at))
        with self._changed:
            PartitionWindow.finish(held)

    def _put_away(self, taken: _Taken, error: HagdError) -> None:
        held, place = taken.held, _place(taken.topic, taken.partition, taken.held.offset)
        # With what tells its writer which of its records this is.
        told = [(name, value) for name, value in held.headers if len(value) <= _KEPT_HEADER_BYTES][:_KEPT_HEADERS]
        headers: Headers = [
            (_REASON_HEADER, error.message.encode(errors="replace")[:_KEPT_HEADER_BYTES]),
            (_SOURCE_HEADER, place.encode()),
            *told,
        ]
        kept = taken.value if len(taken.value) <= MAX_EVENT_BYTES else taken.value[:_OVERSIZE_KEPT_BYTES]
        topic = unreadable_topic(taken.asked)
        try:
            self._writer.write(topic, place, kept, headers)
        except HagdError as trouble:
            with self._changed:
                PartitionWindow.give_back(held, self._clock.now() + _UNREADABLE_SECONDS)
            # It stands in the way until it is away, whatever the reason; nothing is wrong with the next request.
            raise UnavailableError(f"{topic} takes no event: {trouble.message}", trouble.hint) from trouble
        _LOG.warning("%s was put away: %s", place, error.message)
        self._meter.add(UNREADABLE_RECORDS, stage=stage_of(taken.asked))
        with self._changed:
            PartitionWindow.finish(held)

    def _members_of(self, topic: str) -> list[GroupMember]:
        """Give who works off a topic and its retry topics, joining the groups where that is still to be done."""
        if self._closed:
            raise _closed()
        if topic not in self._members:
            self._members[topic] = GroupMember(topic, [topic], self._settings, self._changed)
        retry = self._retry_topics(topic)
        if retry and topic not in self._retrying:
            self._retrying[topic] = GroupMember(f"{topic}.retry", retry, self._settings, self._changed)
        return [members[topic] for members in (self._members, self._retrying) if topic in members]

    def _retry_topics(self, topic: str, delay_seconds: float = math.inf) -> list[str]:
        """Give the retry topics that are there for a delay or a shorter one, the shortest first."""
        names = [retry_topic(topic, tier) for tier in RETRY_TIERS if tier <= delay_seconds]
        return [name for name in names if name in self._members[topic].there]

    def _find(self, delivery: Delivery) -> tuple[str, Held] | None:
        """Give the event that a delivery holds, and the topic that was asked for; None when it has lost it."""
        place = (delivery.record.topic, delivery.record.partition)
        for topic, member in [*self._members.items(), *self._retrying.items()]:
            if place in member.windows:
                held = member.windows[place].holder(delivery.record.offset, delivery.claim)
                return None if held is None else (topic, held)
        return None

    def _holder(self, delivery: Delivery) -> Held | None:
        found = self._find(delivery)
        return None if found is None else found[1]

    def _raise_trouble(self, topics: Sequence[str]) -> None:
        for member in [member for topic in topics for member in self._members_of(topic)]:
            if (trouble := member.trouble) is not None:
                raise type(trouble)(trouble.message, trouble.hint)


def _unreadable(raw: Any) -> UnreadableRecord:
    told = dict(raw.headers)
    own = [(name, value) for name, value in raw.headers if name not in (_REASON_HEADER, _SOURCE_HEADER)]
    reason, source = (told.get(name, b"").decode(errors="replace") for name in (_REASON_HEADER, _SOURCE_HEADER))
    return UnreadableRecord(source, reason, raw.value or b"", own, raw.timestamp / 1000)


def _headers(envelope: Envelope) -> list[tuple[str, bytes]]:
    traced = [(HEADER, envelope.traceparent.encode())] if envelope.traceparent else []
    return [("hagd-id", envelope.id.encode()), *traced]


def _check_size(taken: _Taken) -> None:
    """Refuse what could not be written once more, with a header or two of ours, to another topic."""
    beside = sum(len(name) + len(value) for name, value in taken.held.headers)
    if len(taken.value) > MAX_EVENT_BYTES or beside > _HEADER_BYTES:
        raise InvalidInputError(f"not an event: it has {len(taken.value)} bytes, and {beside} in headers")


def _place(topic: str, partition: int, offset: int) -> str:
    return f"{topic}/{partition}/{offset}"


def _retry_headers(held: Held, free_at: float) -> Headers:
    counts = [(ATTEMPTS_HEADER, b"%d" % held.attempts), (FAILURES_HEADER, b"%d" % held.failures)]
    return [*held.headers, *counts, (NOT_BEFORE_HEADER, str(free_at).encode())]


def _closed() -> UnavailableError:
    return UnavailableError("the event log is closed", "open it again")
