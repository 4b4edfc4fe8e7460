"""The way in of requests that other systems wrote to the log: one run each, whatever else is written there."""

import json
import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest

from hagd.artifacts.store import StoredObject
from hagd.errors import RunError, StoreFullError, UnavailableError
from hagd.events.envelope import Envelope, PlanEntry
from hagd.events.log import Delivery
from hagd.events.topics import ENTRY_STAGE, RUN_FAILED, dead_letter_topic, requested_topic
from hagd.pipeline.dead_letters import dead_letters, replay
from hagd.pipeline.intake import REQUESTED, event_of
from hagd.pipeline.quotas import Quota
from hagd.pipeline.request import Request
from hagd.pipeline.router import WAIT_SECONDS, RequestRouter
from hagd.pipeline.state import Outcome
from hagd.pipeline.submission import submit
from hagd.testing import MemoryStore, RecordingMeter
from unit.pipeline.test_loop import World, padded, request
from unit.pipeline.toy_stages import STAGES


@pytest.fixture
def world() -> World:
    return World()


def sent(world: World, asked: Request, **changes: object) -> str:
    """Let another system write a request; a changed id is that of a second delivery."""
    event = replace(event_of(asked), **changes)
    world.log.append(REQUESTED, event)
    return event.run_id


def test_a_request_from_the_log_is_the_run_that_a_call_would_have_made(world: World) -> None:
    called = World()
    asked = request(threshold=-100.0)
    assert sent(world, asked) == submit(asked, called.store, called.log, STAGES)
    for each in (world, called):
        each.router.step()

    assert world.store.objects == called.store.objects
    topic = requested_topic("numbers")
    assert [it.envelope for it in world.log.read(topic)] == [it.envelope for it in called.log.read(topic)]


def test_a_request_from_the_log_comes_to_its_outcome(world: World) -> None:
    run_id = sent(world, request(threshold=-100.0))
    world.drive()

    assert world.runs.outcome(run_id) == Outcome("verified", "verdict")


def test_a_request_that_is_sent_again_and_again_is_one_run(world: World) -> None:
    for number in range(3):
        run_id = sent(world, request(threshold=-100.0), id=f"delivery-{number}")
        world.drive()

    assert world.runs.list() == [run_id]
    assert world.executor.tasks == list(STAGES)
    assert len(world.log.read(requested_topic("numbers"))) == 1


def test_the_same_id_with_another_body_is_refused_and_the_first_run_goes_on_untouched(world: World) -> None:
    first = sent(world, request(threshold=-100.0))
    world.router.step()
    before = dict(world.store.objects)
    assert sent(world, request(threshold=100.0)) == first
    world.router.step()

    assert world.store.objects == before
    assert world.log.read(RUN_FAILED) == []
    (letter,) = dead_letters(world.log, world.runs, [ENTRY_STAGE])
    assert (letter.failure.kind, letter.envelope.run_id) == ("run-conflict", first)
    with pytest.raises(RunError, match="was refused"):
        replay(letter, world.runs, world.log)
    world.drive()
    assert world.runs.outcome(first) == Outcome("verified", "verdict")


def test_a_request_that_no_stage_takes_makes_no_run_and_may_be_sent_again_corrected(world: World) -> None:
    wrong = Request("me", "first", (PlanEntry("nobody", 1),))
    run_id = sent(world, wrong)
    world.drive()

    assert world.runs.list() == []
    (letter,) = dead_letters(world.log, world.runs, [ENTRY_STAGE])
    assert letter.failure.kind == "unknown-name"
    sent(world, request("first", threshold=-100.0))
    world.drive()
    assert world.runs.outcome(run_id) == Outcome("verified", "verdict")


def test_a_config_over_which_a_stage_breaks_is_refused_and_the_next_request_comes(world: World) -> None:
    def broken(config: object) -> dict[str, object]:
        raise ZeroDivisionError("not expected")

    router = RequestRouter(
        world.log, world.runs, STAGES | {"broken": replace(STAGES["numbers"], id="broken", resolve=broken)}
    )
    sent(world, Request("me", "bad", (PlanEntry("broken", 1),)))
    good = sent(world, request("good"))
    assert router.step()
    assert router.step()

    (letter,) = dead_letters(world.log, world.runs, [ENTRY_STAGE])
    assert letter.failure.kind == "invalid-input"
    assert letter.failure.message == "stage 'broken' cannot use its config: ZeroDivisionError: not expected"
    assert world.runs.list() == [good]


@pytest.mark.parametrize(
    "newer",
    [
        replace(event_of(request()), schema_version=2),
        event_of(Request("me", "first", (PlanEntry("numbers", 9, {"seed": 1}),))),
    ],
    ids=["schema", "stage"],
)
def test_what_a_newer_release_will_take_waits_and_is_no_poison(world: World, newer: Envelope) -> None:
    meter = RecordingMeter()
    world.router = replace(world.router, meter=meter)
    world.log.append(REQUESTED, newer)
    assert world.router.step()

    assert meter.values == {("hagd_requests_settled_total", ENTRY_STAGE, "unserved"): 1.0}, "an alert watches it"
    assert world.log.read(dead_letter_topic(ENTRY_STAGE)) == []
    assert not world.router.step()
    world.clock.advance(WAIT_SECONDS)
    assert world.router.step()


def test_a_principal_with_as_many_runs_as_it_may_have_waits_out_of_the_way_of_others(world: World) -> None:
    world.router = replace(world.router, quota=Quota(1))
    first = sent(world, request("first"))
    second = sent(world, request("second"))
    other = sent(world, replace(request("first"), principal="you"))
    while world.router.step():
        pass

    assert world.runs.list() == sorted([first, other])
    assert world.log.read(dead_letter_topic(ENTRY_STAGE)) == []
    world.drive()
    world.clock.advance(WAIT_SECONDS)
    world.drive()
    assert world.runs.outcome(second) is not None


class Failing(MemoryStore):
    """A store that does not take the next thing."""

    error: Exception | None = None

    def read(self, key: str) -> StoredObject | None:
        if self.error is not None:
            raise self.error
        return super().read(key)

    def put_if_absent(self, key: str, data: bytes) -> str | None:
        if self.error is not None:
            raise self.error
        return super().put_if_absent(key, data)


def test_an_event_that_leaves_no_room_to_tell_of_it_is_a_dead_letter_all_the_same(world: World) -> None:
    world.log.append(REQUESTED, padded(replace(event_of(request()), data={}, run_id="f" * 64), 1))
    assert world.router.step()
    assert not world.router.step()
    (letter,) = dead_letters(world.log, world.runs, [ENTRY_STAGE])
    assert (letter.failure.kind, letter.envelope.run_id) == ("unknown-name", "f" * 64)


@pytest.mark.parametrize("error", [UnavailableError("no answer"), StoreFullError("no room")])
def test_an_outage_of_the_store_keeps_the_request_for_later(world: World, error: Exception) -> None:
    store = Failing()
    store.error = error
    router = RequestRouter(world.log, replace(world.runs, store=store), STAGES)
    run_id = sent(world, request())
    assert router.step()
    assert not router.step()

    store.error = None
    world.clock.advance(1.0)
    assert router.step()
    assert replace(world.runs, store=store).list() == [run_id]
    assert world.log.read(dead_letter_topic(ENTRY_STAGE)) == []


def test_every_step_can_be_repeated_after_a_crash(world: World) -> None:
    """The store has the request, the event for the first stage was written, and the acknowledgement was lost."""
    run_id = sent(world, request(threshold=-100.0))
    delivery = world.log.claim([REQUESTED], 60)
    assert delivery is not None
    world.log.release(delivery)
    world.router.step()
    sent(world, request(threshold=-100.0), id="again")
    world.drive()

    assert world.executor.tasks == list(STAGES)
    assert json.loads(world.store.objects[f"runs/{run_id}/request"])["request"]["principal"] == "me"


def test_its_loop_waits_out_an_outage_and_ends_when_asked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hagd.pipeline.router.OUTAGE_SECONDS", 0.01)
    run_id, stop, steps = sent(world, request(threshold=-100.0)), threading.Event(), iter(range(9))
    claim = world.log.claim

    def failing(topics: Sequence[str], seconds: float) -> Delivery | None:
        if (step := next(steps)) < 2:
            raise UnavailableError("the partitions are shared out anew")
        if step == 8:
            stop.set()
        return claim(topics, seconds)

    monkeypatch.setattr(world.log, "claim", failing)
    world.router.run(stop)

    assert world.runs.exists(run_id)
    assert next(steps, None) is None
