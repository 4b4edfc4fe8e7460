"""Trimming deletes what is worked off, on a real broker, and never what somebody may still need."""

import secrets
import time

import pytest

from hagd.events.kafka.admin import Durability, create_topics, plan_topics
from hagd.events.kafka.log import KafkaEventLog
from hagd.events.kafka.trim import trim_topics
from hagd.events.log import Delivery
from hagd.events.topics import requested_topic
from kafka_logs import event, joined, settings

pytestmark = [pytest.mark.kafka, pytest.mark.servers, pytest.mark.xdist_group("kafka")]


@pytest.fixture
def stage(kafka_address: str) -> str:
    name = f"trim-{secrets.token_hex(4)}"
    create_topics(settings(kafka_address), plan_topics([name], {}, 1, Durability(1, 1)))
    return name


def claimed(log: KafkaEventLog, topic: str, count: int) -> list[Delivery]:
    found: list[Delivery] = []
    deadline = time.monotonic() + 30
    while len(found) < count:
        assert time.monotonic() < deadline
        found += [delivery] if (delivery := log.claim([topic], 60)) is not None else []
    return found


def test_only_what_is_committed_below_the_first_open_event_is_deleted(kafka_address: str, stage: str) -> None:
    topic, address = requested_topic(stage), settings(kafka_address)
    log = KafkaEventLog(address)
    for number in range(7):
        log.append(topic, event(f"e{number}"))
    joined(log, topic)
    held = claimed(log, topic, 7)
    for delivery in [*held[:3], *held[4:]]:
        assert log.ack(delivery)
    log.close()
    # The fourth event is open, so that the three before it are all that may go.
    planned = trim_topics(address, [stage], dry_run=True)
    assert [(it.topic, it.first_offset, it.deleted) for it in planned] == [(topic, 3, 3)]
    assert trim_topics(address, [stage]) == planned
    assert trim_topics(address, [stage]) == []
    again = KafkaEventLog(address)
    assert [record.envelope.id for record in again.read(topic)] == ["e3", "e4", "e5", "e6"]
    joined(again, topic)
    assert [delivery.envelope.id for delivery in claimed(again, topic, 4)] == ["e3", "e4", "e5", "e6"]
    again.close()


def test_a_topic_that_nobody_has_worked_off_keeps_everything(kafka_address: str, stage: str) -> None:
    log = KafkaEventLog(settings(kafka_address))
    log.append(requested_topic(stage), event("waiting"))
    assert trim_topics(settings(kafka_address), [stage]) == []
    assert [record.envelope.id for record in log.read(requested_topic(stage))] == ["waiting"]
    log.close()
