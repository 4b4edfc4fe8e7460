"""What every event log promises."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hagd.artifacts.reference import ArtifactRef
from hagd.events.envelope import Envelope, PlanEntry
from hagd.events.log import START, EventLog, advance
from hagd.events.sqlite import SqliteEventLog
from hagd.testing import ManualClock, MemoryEventLog
from kafka_logs import OwnTopics
from real_servers import kafka_param


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1000.0)


# A log over a network cannot tell whether an id is there already; its consumers tell.
KNOWS_IDS = ["memory", "sqlite"]


@pytest.fixture(params=[*KNOWS_IDS, kafka_param("kafka")])
def log(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> Iterator[EventLog]:
    opened: EventLog
    match request.param:
        case "memory":
            opened = MemoryEventLog(clock)
        case "sqlite":
            opened = SqliteEventLog(tmp_path / "log", clock=clock)
        case _:
            opened = OwnTopics(request.getfixturevalue("kafka_address"), clock)
    yield opened
    opened.close()


def event(name: str) -> Envelope:
    inputs = {"graph": ArtifactRef("a" * 64, 5, "application/json")}
    return Envelope(
        name, "run", "somebody", 0, 1, (PlanEntry("one", 3, {"seed": 7}), PlanEntry("two", 1)), inputs, {"x": 1.5}
    )


def test_an_event_is_claimed_as_it_was_appended(log: EventLog) -> None:
    assert log.append("t", event("a"))
    delivery = log.claim(["t"], 60)
    assert delivery is not None
    assert delivery.envelope == event("a")
    assert delivery.attempts == 1


@pytest.mark.parametrize("log", KNOWS_IDS, indirect=True)
def test_an_event_of_the_same_id_is_one_event_per_topic(log: EventLog) -> None:
    assert log.append("t", event("a"))
    assert not log.append("t", event("a"))
    assert log.append("other", event("a"))
    assert len(log.read("t")) == 1


@pytest.mark.parametrize("log", KNOWS_IDS, indirect=True)
def test_an_event_stays_one_event_after_it_was_worked_off(log: EventLog) -> None:
    log.append("t", event("a"))
    delivery = log.claim(["t"], 60)
    assert delivery is not None
    assert log.ack(delivery)
    assert not log.append("t", event("a"))
    assert log.claim(["t"], 60) is None


def test_events_of_a_topic_come_in_order(log: EventLog) -> None:
    for name in "abc":
        log.append("t", event(name))
    claims = [log.claim(["t"], 60) for _ in range(4)]
    assert [claim and claim.envelope.id for claim in claims] == ["a", "b", "c", None]


def test_events_come_of_the_topics_asked_for_alone(log: EventLog) -> None:
    for topic, name in (("x", "a"), ("y", "b"), ("z", "c")):
        log.append(topic, event(name))
    claims = [log.claim(["z", "x"], 60) for _ in range(3)]
    assert {claim.envelope.id for claim in claims if claim} == {"a", "c"}
    assert claims[2] is None


def test_a_claim_that_ran_out_goes_to_the_next_and_the_first_holder_can_do_nothing(
    log: EventLog, clock: ManualClock
) -> None:
    log.append("t", event("a"))
    first = log.claim(["t"], 60)
    assert first is not None
    clock.advance(59)
    assert log.claim(["t"], 60) is None
    clock.advance(1)
    second = log.claim(["t"], 60)
    assert second is not None
    assert second.attempts == 2
    assert not log.ack(first)
    assert not log.extend(first, 60)
    assert not log.release(first)
    assert log.ack(second)


def test_an_extended_claim_lasts_from_now(log: EventLog, clock: ManualClock) -> None:
    log.append("t", event("a"))
    delivery = log.claim(["t"], 60)
    assert delivery is not None
    clock.advance(50)
    assert log.extend(delivery, 60)
    clock.advance(59)
    assert log.claim(["t"], 60) is None
    clock.advance(1)
    assert log.claim(["t"], 60) is not None


def test_a_released_event_comes_back_after_its_delay(log: EventLog, clock: ManualClock) -> None:
    log.append("t", event("a"))
    delivery = log.claim(["t"], 60)
    assert delivery is not None
    assert log.release(delivery, 10)
    clock.advance(9)
    assert log.claim(["t"], 60) is None
    clock.advance(1)
    assert log.claim(["t"], 60) is not None


def test_only_what_was_released_as_failed_counts_as_a_failure(log: EventLog, clock: ManualClock) -> None:
    log.append("t", event("a"))
    counts: list[tuple[int, int]] = []
    for failed in (False, True, False, True):
        delivery = log.claim(["t"], 60)
        assert delivery is not None
        counts.append((delivery.attempts, delivery.failures))
        log.release(delivery, 1, failed=failed)
        clock.advance(1)
    assert counts == [(1, 0), (2, 0), (3, 1), (4, 1)]


def test_an_event_is_acknowledged_once(log: EventLog) -> None:
    log.append("t", event("a"))
    delivery = log.claim(["t"], 60)
    assert delivery is not None
    assert log.ack(delivery)
    assert not log.ack(delivery)


def test_observers_read_from_the_start_whatever_was_claimed(log: EventLog) -> None:
    for name in "abc":
        log.append("t", event(name))
    log.claim(["t"], 60)
    records = log.read("t")
    assert [record.envelope.id for record in records] == ["a", "b", "c"]
    after_the_first = advance(START, records[:1])
    assert [record.envelope.id for record in log.read("t", after_the_first, 1)] == ["b"]
    assert log.read("t", advance(after_the_first, records[1:])) == []


def test_events_wait_until_they_are_finished_whether_they_are_claimed_or_not(log: EventLog) -> None:
    for name in "ab":
        log.append("t", event(name))
    log.append("other", event("c"))
    delivery = log.claim(["t"], 60)
    assert delivery is not None
    waiting = log.waiting(["t"])
    assert [record.envelope.id for record in waiting] == ["a", "b"]
    assert all(record.at > 0 for record in waiting)
    assert [record.envelope.id for record in log.waiting(["t"], 1)] == ["a"]
    log.release(delivery)
    assert len(log.waiting(["t"])) == 2
    again = log.claim(["t"], 60)
    assert again is not None
    log.ack(again)
    assert [record.envelope.id for record in log.waiting(["t"])] == ["b"]


def test_nothing_was_put_away_where_only_events_were_written(log: EventLog) -> None:
    log.append("t", event("a"))
    assert log.unreadable("t") == []


def test_a_trace_travels_with_an_event(log: EventLog) -> None:
    trace = f"00-{'ab' * 16}-{'cd' * 8}-01"
    log.append("t", replace(event("a"), traceparent=trace))
    delivery = log.claim(["t"], 60)
    assert delivery is not None
    assert delivery.envelope.traceparent == trace


def test_threads_share_the_events_without_loss_or_doubles(log: EventLog) -> None:
    for number in range(31):
        log.append("t", event(str(number)))
    taken: list[str] = []

    def work() -> None:
        while delivery := log.claim(["t"], 60):
            taken.append(delivery.envelope.id)
            log.ack(delivery)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken, key=int) == [str(number) for number in range(31)]
