"""Which runs count as stalled: each of the things that keep a run from it, one at a time."""

from datetime import timedelta

import pytest

from hagd.artifacts.leases import LeaseTable, Owner
from hagd.events.log import Delivery
from hagd.events.topics import ENTRY_STAGE, PROGRESSED, RUN_CANCELLED, requested_topic
from hagd.pipeline.request import PlanEntry, Request
from hagd.pipeline.runs import RunStore
from hagd.pipeline.stalled import StallCheck, resubmit
from hagd.pipeline.state import Outcome, StageState
from hagd.pipeline.submission import submit
from hagd.testing import ManualClock, MemoryEventLog, MemoryStore
from unit.pipeline.toy_stages import STAGES

QUIET = timedelta(minutes=7)
ENTRY = requested_topic(ENTRY_STAGE)
ENDED = Owner("ended")


class World:
    """A run whose request was taken from the log, its first stage started, and nothing after that."""

    def __init__(self) -> None:
        self.clock = ManualClock(100_000.0)
        self.store, self.log = MemoryStore(), MemoryEventLog(self.clock)
        self.runs = RunStore(self.store)
        plan = (PlanEntry("numbers", 1, {"seed": 3}), PlanEntry("total", 1))
        self.run_id = submit(Request("me", "one", plan), self.store, self.log, STAGES)
        self.runs.start_stage(self.run_id, 0, 0, StageState("numbers", "running", "ab" * 32))
        self.delivery: Delivery | None = self.log.claim([ENTRY], 60)
        assert self.delivery is not None

    def take_delivery_away(self) -> "World":
        assert self.delivery is not None
        assert self.log.ack(self.delivery)
        return self

    def lease(self, owner: Owner) -> LeaseTable:
        return LeaseTable(self.store, self.clock, owner)

    def stalled(self, quiet: timedelta = QUIET) -> list[str]:
        leases = self.lease(Owner("reader"))
        check = StallCheck(self.runs, self.log, leases, self.clock.now(), ended=lambda owner: owner == ENDED)
        return [state.run_id for state in check.find(quiet)]


@pytest.fixture
def world() -> World:
    return World()


def test_a_run_that_nothing_takes_further_is_stalled_once_it_was_quiet_long_enough(world: World) -> None:
    world.take_delivery_away()
    world.clock.advance(7 * 60 - 1)
    assert world.stalled() == []
    world.clock.advance(1)
    assert world.stalled() == [world.run_id]


def test_a_run_whose_delivery_waits_is_not_stalled_however_long_that_takes(world: World) -> None:
    world.clock.advance(1e6)
    assert world.stalled() == []


def test_a_delivery_of_an_earlier_generation_takes_nothing_further(world: World) -> None:
    world.clock.advance(1e6)
    world.runs.reopen(world.run_id, after=0)
    assert world.stalled() == [world.run_id]


def test_a_run_whose_lease_is_held_is_not_stalled_until_its_holder_has_ended(world: World) -> None:
    world.take_delivery_away().clock.advance(1e6)
    held = world.lease(Owner("alive")).acquire("ab" * 32)
    assert held is not None
    assert world.stalled() == []
    assert world.lease(Owner("alive")).release(held)
    assert world.stalled() == [world.run_id]
    world.lease(ENDED).acquire("ab" * 32)
    assert world.stalled() == [world.run_id]


def test_progress_keeps_a_run_from_being_stalled(world: World) -> None:
    assert world.delivery is not None
    world.take_delivery_away().clock.advance(1e6)
    world.log.append(PROGRESSED, world.delivery.envelope)
    assert world.stalled() == []
    world.clock.advance(QUIET.total_seconds())
    assert world.stalled() == [world.run_id]


def test_a_run_that_is_over_is_not_stalled(world: World) -> None:
    world.take_delivery_away().clock.advance(1e6)
    world.runs.finish(world.run_id, 0, Outcome("failed"), "somebody")
    assert world.stalled() == []


def test_a_run_of_which_the_log_knows_nothing_is_stalled_at_once(world: World) -> None:
    world.log = MemoryEventLog(world.clock)
    assert world.stalled() == [world.run_id]


def test_a_resubmitted_run_waits_in_the_log_as_a_new_generation(world: World) -> None:
    world.log = MemoryEventLog(world.clock)
    assert resubmit([world.runs.get(world.run_id)], world.runs, world.log) == [world.run_id]
    assert world.stalled() == []
    waiting = world.log.waiting([ENTRY])
    assert [record.envelope.generation for record in waiting] == [1]


def test_a_run_that_somebody_had_cancelled_ends_so_in_place_of_being_resubmitted(world: World) -> None:
    world.log = MemoryEventLog(world.clock)
    world.runs.cancel(world.run_id)
    assert resubmit([world.runs.get(world.run_id)], world.runs, world.log) == []
    assert world.runs.outcome(world.run_id) == Outcome("cancelled")
    (told,) = world.log.read(RUN_CANCELLED)
    assert (told.envelope.run_id, told.envelope.generation) == (world.run_id, 0)
    assert Outcome.from_json(told.envelope.data) == Outcome("cancelled")
    assert world.log.waiting([ENTRY]) == []
