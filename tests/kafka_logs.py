"""Logs over a real broker in topics of their own, for tests that name topics as they like."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from kafka import KafkaAdminClient
from kafka.admin import NewTopic

from hagd.artifacts.clock import Clock
from hagd.events.envelope import Envelope, PlanEntry
from hagd.events.kafka.log import KafkaEventLog
from hagd.events.kafka.settings import KafkaSettings
from hagd.events.log import START, Delivery, Position, Record, UnreadableRecord
from hagd.events.topics import RETRY_TIERS, retry_topic, unreadable_topic


def event(name: str, run_id: str = "run") -> Envelope:
    return Envelope(name, run_id, "somebody", 0, 0, (PlanEntry("one", 1),), {})


def fresh_topic(address: str, partitions: int = 1, *, tiers: bool = True) -> str:
    """Make a topic that nobody else uses, with what belongs to it."""
    topic = f"test-{secrets.token_hex(8)}.requested.v1"
    beside = [*(retry_topic(topic, tier) for tier in RETRY_TIERS), unreadable_topic(topic)] if tiers else []
    admin = KafkaAdminClient(bootstrap_servers=address)
    admin.create_topics([NewTopic(name, partitions, 1) for name in [topic, *beside]])
    admin.wait_for_topics([topic, *beside])
    admin.close()
    return topic


def settings(address: str, **changes: Any) -> KafkaSettings:
    return replace(KafkaSettings(address, delivery_timeout_seconds=6.0), **changes)


def owned(log: KafkaEventLog, topic: str) -> int:
    """Count the partitions of a topic that a log works off, joining the groups if it has not yet."""
    with log._changed:
        members = log._members_of(topic)
        return sum(place[0] == topic for member in members for place in member._owned)


def joined(log: KafkaEventLog, topic: str, partitions: int = 1, *, tiers: bool = True) -> None:
    """Wait until a log owns so many partitions of a topic, and one of a retry topic if there are any."""
    deadline = time.monotonic() + 60.0
    while owned(log, topic) < partitions or (tiers and not _retries(log, topic)):
        assert time.monotonic() < deadline, f"{topic} was not joined: {log._members[topic].trouble}"
        time.sleep(0.02)


def _retries(log: KafkaEventLog, topic: str) -> bool:
    with log._changed:
        return topic in log._retrying and bool(log._retrying[topic]._owned)


class OwnTopics:
    """A log that makes every topic on its first use, under a name of its own, and waits until it is joined."""

    def __init__(self, address: str, clock: Clock) -> None:
        self._address = address
        self.inner = KafkaEventLog(settings(address, patience_seconds=0.5), clock=clock)
        self._names: dict[str, str] = {}

    def append(self, topic: str, envelope: Envelope) -> bool:
        return self.inner.append(self._name(topic), envelope)

    def claim(self, topics: Sequence[str], seconds: float) -> Delivery | None:
        names = [self._name(topic) for topic in topics]
        for name in names:
            joined(self.inner, name)
        return self.inner.claim(names, seconds)

    def ack(self, delivery: Delivery) -> bool:
        return self.inner.ack(delivery)

    def release(self, delivery: Delivery, delay_seconds: float = 0.0, *, failed: bool = False) -> bool:
        return self.inner.release(delivery, delay_seconds, failed=failed)

    def extend(self, delivery: Delivery, seconds: float) -> bool:
        return self.inner.extend(delivery, seconds)

    def read(self, topic: str, position: Position = START, limit: int = 1000) -> list[Record]:
        return self.inner.read(self._name(topic), position, limit)

    def waiting(self, topics: Sequence[str], limit: int = 1000) -> list[Record]:
        return self.inner.waiting([self._name(topic) for topic in topics], limit)

    def unreadable(self, topic: str, limit: int = 1000) -> list[UnreadableRecord]:
        return self.inner.unreadable(self._name(topic), limit)

    def close(self) -> None:
        self.inner.close()

    def _name(self, topic: str) -> str:
        if topic not in self._names:
            self._names[topic] = fresh_topic(self._address)
        return self._names[topic]
