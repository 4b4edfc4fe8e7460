"""What the Kafka log promises beyond the port, against a real broker: offsets, rebalances, retries, poison, outages."""

import json
import logging
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.structs import TopicPartition

from hagd.artifacts.clock import Clock
from hagd.errors import InvalidInputError, UnavailableError
from hagd.events.envelope import MAX_EVENT_BYTES, SCHEMA_VERSION
from hagd.events.kafka.log import KafkaEventLog
from hagd.events.kafka.settings import KafkaSettings
from hagd.events.kafka.window import WINDOW_OFFSETS
from hagd.events.log import START, Delivery, advance
from hagd.events.topics import retry_topic, stage_of, unreadable_topic
from hagd.telemetry.metrics import Meter
from hagd.testing import ManualClock, RecordingMeter
from kafka_logs import event, fresh_topic, joined, owned, settings
from servers.kafka import running_kafka
from servers.places import has_kafka
from servers.process import free_ports

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.servers,
    pytest.mark.xdist_group("kafka"),
    # kafka-python forgets sockets that a broker let go of while it ended.
    pytest.mark.filterwarnings("ignore:Exception ignored in. .socket.socket:pytest.PytestUnraisableExceptionWarning"),
]
Opening = Callable[..., KafkaEventLog]


@pytest.fixture
def opened(kafka_address: str) -> Iterator[Opening]:
    """Open logs, as many as a test asks for; each is a process of its own as far as Kafka can tell."""
    logs: list[KafkaEventLog] = []

    def opening(clock: Clock | None = None, meter: Meter | None = None, **changes: Any) -> KafkaEventLog:
        told = settings(kafka_address, **{"patience_seconds": 1.0, **changes})
        logs.append(KafkaEventLog(told, clock=clock, meter=meter))
        return logs[-1]

    yield opening
    for log in logs:
        log.close()


def claimed(log: KafkaEventLog, topic: str, seconds: float = 20.0) -> Delivery:
    deadline = time.monotonic() + seconds
    while (delivery := log.claim([topic], 60)) is None:
        assert time.monotonic() < deadline, "nothing came"
    return delivery


def committed(address: str, topic: str, partition: int = 0) -> int:
    consumer = KafkaConsumer(bootstrap_servers=address, group_id=topic)
    offset = consumer.committed(TopicPartition(topic, partition))
    consumer.close()
    return offset or 0


def eventually(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never held"
        time.sleep(0.05)


def test_the_offset_that_is_committed_is_the_lowest_that_is_not_acknowledged(
    opened: Opening, kafka_address: str
) -> None:
    topic, log = fresh_topic(kafka_address), opened()
    for name in "abcde":
        log.append(topic, event(name))
    held = {delivery.envelope.id: delivery for delivery in [claimed(log, topic) for _ in range(5)]}
    for name in "abd":
        assert log.ack(held[name])
    eventually(lambda: committed(kafka_address, topic) == 2)
    log.close()
    after = opened()
    assert [claimed(after, topic).envelope.id for _ in range(3)] == ["c", "d", "e"]


def test_not_more_than_a_window_of_offsets_is_held_beyond_the_committed_one(
    opened: Opening, kafka_address: str
) -> None:
    topic, log = fresh_topic(kafka_address), opened()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: log.append(topic, event(str(n))), range(WINDOW_OFFSETS + 100)))
    first = claimed(log, topic)
    taken = 0
    while delivery := log.claim([topic], 60):
        assert log.ack(delivery)
        taken += 1
    assert taken == WINDOW_OFFSETS - 1
    assert committed(kafka_address, topic) == 0
    assert log.ack(first)
    while taken < WINDOW_OFFSETS + 99:
        assert log.ack(claimed(log, topic))
        taken += 1
    eventually(lambda: committed(kafka_address, topic) == WINDOW_OFFSETS + 100)


def test_a_backlog_on_several_partitions_is_worked_off_to_its_end_at_any_pace(
    opened: Opening, kafka_address: str
) -> None:
    topic, log = fresh_topic(kafka_address, partitions=4), opened()
    count = 4 * 250
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: log.append(topic, event(str(n))), range(count)))
    seen: set[str] = set()
    pauses = 0
    while len(seen) < count:
        delivery = claimed(log, topic)
        assert log.ack(delivery)
        seen.add(delivery.envelope.id)
        # Now and then nobody claims for a moment, so that partitions fill up, are paused, and are fetched again.
        if len(seen) % 50 == 0 and pauses < 12:
            pauses += 1
            time.sleep(0.3)
    eventually(lambda: sum(committed(kafka_address, topic, number) for number in range(4)) == count)


def test_two_members_share_the_partitions_and_nothing_is_lost_when_one_joins_and_leaves(
    opened: Opening, kafka_address: str
) -> None:
    topic, first = fresh_topic(kafka_address, 4, tiers=False), opened()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: first.append(topic, event(str(n))), range(61)))
    joined(first, topic, 4, tiers=False)
    taken = [claimed(first, topic) for _ in range(17)]
    second = opened()
    joined(second, topic, 2, tiers=False)
    eventually(lambda: owned(first, topic) == 2)
    done = {delivery.envelope.id for delivery in taken if first.ack(delivery)}
    # Of partitions that moved, the claims are lost, and their events come again elsewhere.
    assert len(done) < 17
    while len(done) < 40:
        for log in (first, second):
            if delivery := log.claim([topic], 60):
                assert delivery.envelope.id not in done
                assert log.ack(delivery)
                done.add(delivery.envelope.id)
    first.close()
    while len(done) < 61:
        delivery = claimed(second, topic)
        assert second.ack(delivery)
        done.add(delivery.envelope.id)
    assert second.claim([topic], 60) is None


WORKER = """
import sys
from hagd.events.kafka.log import KafkaEventLog
from hagd.events.kafka.settings import KafkaSettings
log = KafkaEventLog(KafkaSettings(sys.argv[1], session_timeout_seconds=2.0))
while True:
    if delivery := log.claim([sys.argv[2]], 60):
        log.ack(delivery)
        print(delivery.envelope.id, flush=True)
"""


def test_a_member_that_is_killed_leaves_its_events_to_the_others(opened: Opening, kafka_address: str) -> None:
    topic, log = fresh_topic(kafka_address, partitions=2), opened()
    with subprocess.Popen([sys.executable, "-c", WORKER, kafka_address, topic], stdout=subprocess.PIPE) as worker:
        log.append(topic, event("first"))
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"first\n"
        os.kill(worker.pid, signal.SIGKILL)
    names = {str(number) for number in range(23)}
    for name in sorted(names):
        log.append(topic, event(name))
    done: set[str] = set()
    while not names <= done:
        delivery = claimed(log, topic)
        assert log.ack(delivery)
        done.add(delivery.envelope.id)
    assert done <= names | {"first"}


def test_an_event_released_for_long_goes_to_a_retry_topic_and_does_not_hold_up_the_offset(
    opened: Opening, kafka_address: str
) -> None:
    topic, log = fresh_topic(kafka_address), opened()
    log.append(topic, event("a"))
    assert log.release(claimed(log, topic), 130.0)
    eventually(lambda: committed(kafka_address, topic) == 1)
    (waiting,) = log.read(retry_topic(topic, 120.0))
    assert waiting.envelope == event("a")
    assert log.claim([topic], 60) is None


def test_a_retry_topic_remembers_how_often_an_event_was_claimed_and_how_often_it_failed(
    opened: Opening, kafka_address: str
) -> None:
    clock = ManualClock(time.time())
    topic, log = fresh_topic(kafka_address), opened(clock=clock)
    log.append(topic, event("a"))
    assert log.release(claimed(log, topic))
    assert log.release(claimed(log, topic), 10.0, failed=True)
    clock.advance(11.0)
    delivery = claimed(log, topic)
    assert (delivery.attempts, delivery.failures) == (3, 1)


def test_an_observer_sees_what_a_group_has_not_finished_also_on_retry_topics(
    opened: Opening, kafka_address: str
) -> None:
    topic, log, observer = fresh_topic(kafka_address), opened(), opened()
    assert observer.waiting([topic]) == []
    for name in "abc":
        log.append(topic, event(name))
    assert {it.envelope.id for it in observer.waiting([topic])} == set("abc")
    assert len(observer.waiting([topic], 2)) == 2
    held = {delivery.envelope.id: delivery for delivery in [claimed(log, topic) for _ in range(3)]}
    assert log.ack(held["a"])
    assert log.release(held["b"], 130.0)
    assert log.ack(held["c"])
    eventually(lambda: [it.envelope.id for it in observer.waiting([topic])] == ["b"])
    assert observer.waiting(["hagd.nobody.requested.v1"]) == []


def test_without_retry_topics_an_event_waits_where_it_is(opened: Opening, kafka_address: str) -> None:
    topic, log = fresh_topic(kafka_address, tiers=False), opened()
    log.append(topic, event("a"))
    assert log.release(claimed(log, topic), 10.0)
    assert log.claim([topic], 60) is None
    assert committed(kafka_address, topic) == 0


@pytest.mark.parametrize(
    "poison", [b"", b"\xff\x00", b"{}", b"[" * 99999, b'{"id": 5}', None, b"x" * (MAX_EVENT_BYTES + 1)]
)
def test_what_is_no_event_is_put_away_with_the_reason_and_the_next_comes(
    opened: Opening, kafka_address: str, caplog: pytest.LogCaptureFixture, poison: bytes | None
) -> None:
    topic, meter, log_name = fresh_topic(kafka_address), RecordingMeter(), "hagd.events.kafka.log"
    log = opened(meter=meter)
    assert log.unreadable(topic) == []
    admin = KafkaAdminClient(bootstrap_servers=kafka_address)
    larger = ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": str(2 * MAX_EVENT_BYTES)})
    admin.alter_configs([larger])
    admin.close()
    producer = KafkaProducer(bootstrap_servers=kafka_address, max_request_size=2 * MAX_EVENT_BYTES)
    producer.send(topic, poison, b"k", headers=[("own", b"name")]).get(20)
    producer.close()
    log.append(topic, event("a"))
    delivery = claimed(log, topic)
    assert delivery.envelope.id == "a"
    assert log.ack(delivery)
    eventually(lambda: committed(kafka_address, topic) == 2)
    assert meter.values == {("hagd_unreadable_records_total", stage_of(topic)): 1.0}
    (line,) = [record for record in caplog.records if record.levelno == logging.WARNING and record.name == log_name]
    assert line.getMessage().startswith(f"{topic}/0/0 was put away: not an event")
    (kept,) = raw(kafka_address, unreadable_topic(topic))
    whole = poison or b""
    assert kept.value == (whole if len(whole) <= MAX_EVENT_BYTES else whole[: 64 << 10])
    assert dict(kept.headers)["hagd-reason"].startswith(b"not an event")
    assert dict(kept.headers)["hagd-source"] == f"{topic}/0/0".encode()
    (told,) = log.unreadable(topic)
    assert (told.source, told.value, told.headers) == (f"{topic}/0/0", kept.value, [("own", b"name")])
    assert told.reason == dict(kept.headers)["hagd-reason"].decode()


def test_what_a_newer_release_will_read_waits_and_is_counted(opened: Opening, kafka_address: str) -> None:
    topic, meter = fresh_topic(kafka_address), RecordingMeter()
    log = opened(meter=meter)
    producer = KafkaProducer(bootstrap_servers=kafka_address)
    newer = json.loads(event("a").encode()) | {"schema_version": SCHEMA_VERSION + 1, "plan": "in another form"}
    producer.send(topic, json.dumps(newer).encode()).get(20)
    producer.close()
    told = ("hagd_requests_settled_total", stage_of(topic), "unserved")
    eventually(lambda: log.claim([topic], 60) is None and meter.values.get(told) == 1.0)


def raw(address: str, topic: str) -> list[Any]:
    consumer = KafkaConsumer(bootstrap_servers=address, auto_offset_reset="earliest", consumer_timeout_ms=2000)
    consumer.assign([TopicPartition(topic, 0)])
    records = [next(consumer)]
    consumer.close()
    return records


def test_work_of_one_run_spreads_over_partitions_and_its_facts_stay_in_one(opened: Opening, kafka_address: str) -> None:
    work, log = fresh_topic(kafka_address, 4, tiers=False), opened()
    facts = f"{work}.facts"
    admin = KafkaAdminClient(bootstrap_servers=kafka_address)
    admin.create_topics({facts: {"num_partitions": 4, "replication_factor": 1}})
    admin.close()
    for number in range(31):
        log.append(work, event(secrets.token_hex(32)))
        log.append(facts, event(str(number)))
    assert {record.partition for record in log.read(work)} == {0, 1, 2, 3}
    told = log.read(facts)
    assert [record.envelope.id for record in told] == [str(number) for number in range(31)]
    assert len({record.partition for record in told}) == 1


def test_observers_go_on_in_every_partition_from_where_they_stand(opened: Opening, kafka_address: str) -> None:
    topic, log = fresh_topic(kafka_address, 3, tiers=False), opened()
    position, seen = START, list[str]()
    for number in range(29):
        log.append(topic, event(str(number)))
        if number % 3 == 0:
            page = log.read(topic, position, limit=2)
            position, seen = advance(position, page), seen + [record.envelope.id for record in page]
    while page := log.read(topic, position, limit=5):
        assert len(page) <= 5
        position, seen = advance(position, page), seen + [record.envelope.id for record in page]
    assert sorted(seen, key=int) == [str(number) for number in range(29)]


def test_a_missing_topic_is_named_with_the_remedy(opened: Opening) -> None:
    log = opened(delivery_timeout_seconds=4.0)
    actions: list[Callable[[], object]] = [
        lambda: log.append("none.requested.v1", event("a")),
        lambda: log.read("none.requested.v1"),
        lambda: eventually(lambda: log.claim(["none.requested.v1"], 60) is not None),
    ]
    for act in actions:
        with pytest.raises(UnavailableError, match=r"topic") as caught:
            act()
        assert "hagd admin topics create" in caught.value.hint


def test_an_event_that_is_too_large_is_refused_before_it_is_sent(opened: Opening, kafka_address: str) -> None:
    topic, log = fresh_topic(kafka_address, tiers=False), opened()
    with pytest.raises(InvalidInputError, match="at most 1048576 are carried"):
        log.append(topic, replace(event("a"), data={"x": "y" * MAX_EVENT_BYTES}))
    assert log.read(topic) == []


def test_a_closed_log_says_so(kafka_address: str) -> None:
    log = KafkaEventLog(settings(kafka_address))
    log.close()
    log.close()
    actions: list[Callable[[], object]] = [
        lambda: log.append("t", event("a")),
        lambda: log.claim(["t"], 60),
        lambda: log.read("t"),
    ]
    for act in actions:
        with pytest.raises(UnavailableError, match="is closed"):
            act()


def test_a_broker_that_is_not_there_is_unavailable() -> None:
    log = KafkaEventLog(KafkaSettings(f"127.0.0.1:{free_ports(1)[0]}", delivery_timeout_seconds=2.0))
    actions: list[Callable[[], object]] = [
        lambda: log.append("t", event("a")),
        lambda: log.read("t"),
        lambda: eventually(lambda: log.claim(["t"], 60) is not None),
    ]
    for act in actions:
        with pytest.raises(UnavailableError, match="does not answer") as caught:
            act()
        assert "nothing is lost" in caught.value.hint
    log.close()


@pytest.mark.slow
@pytest.mark.skipif(not has_kafka(), reason="no Kafka that may be restarted: run `make servers`")
def test_an_outage_of_the_broker_loses_nothing_and_ends_by_itself(tmp_path: Path) -> None:
    with running_kafka(tmp_path) as kafka:
        topic = fresh_topic(kafka.address)
        log = KafkaEventLog(settings(kafka.address, delivery_timeout_seconds=4.0))
        for name in "abc":
            log.append(topic, event(name))
        assert log.ack(claimed(log, topic))
        held = claimed(log, topic)
        kafka.process.kill()
        with pytest.raises(UnavailableError, match="does not answer"):
            log.append(topic, event("d"))
        kafka.start()
        eventually(lambda: appended(log, topic, "d"), 60)
        log.ack(held)
        done = {"a", "b"} if committed(kafka.address, topic) >= 2 else {"a"}
        while not {"c", "d"} <= done:
            with suppress(UnavailableError):
                delivery = claimed(log, topic, 60)
                log.ack(delivery)
                done.add(delivery.envelope.id)
        log.close()


def appended(log: KafkaEventLog, topic: str, name: str) -> bool:
    try:
        return log.append(topic, event(name))
    except UnavailableError:
        return False
