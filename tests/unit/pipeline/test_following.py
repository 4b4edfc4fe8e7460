"""Who reads facts alone learns how a run goes and ends, or why it was refused."""

from pathlib import Path

import pytest

from hagd.errors import AccuracyGateError, RunConflictError, UnavailableError
from hagd.events.log import START, Position, Record
from hagd.pipeline.following import FactFollower, follow
from hagd.pipeline.state import Outcome
from hagd.pipeline.submission import announce
from hagd.testing import MemoryEventLog
from unit.pipeline.test_loop import World, request, trouble
from unit.pipeline.test_router import sent
from unit.pipeline.toy_stages import STAGES


@pytest.fixture
def world() -> World:
    return World()


def ignore(stage_id: str, done: float, total: float, message: str) -> None:
    """Drop progress."""


def test_a_run_is_followed_to_what_the_store_says_of_it(world: World) -> None:
    asked = request(threshold=-100.0)
    follower = FactFollower(world.log, asked)
    reports: list[str] = []
    assert follower.step(ignore).outcome is None

    run_id = sent(world, asked)
    state = follow(follower, lambda *it: reports.append(it[0]), world.drive)

    assert state == world.runs.get(run_id)
    assert set(reports) <= set(STAGES)
    assert reports


def test_a_run_that_had_ended_is_told_of_at_once(world: World) -> None:
    sent(world, request(threshold=-100.0))
    world.drive()

    state = FactFollower(world.log, request(threshold=-100.0)).step(ignore)
    assert state.outcome == Outcome("verified", "verdict")


def test_a_run_that_fails_raises_what_the_stage_raised(world: World, tmp_path: Path) -> None:
    asked = request(trouble=trouble(tmp_path, "gate"))
    sent(world, asked)

    state = follow(FactFollower(world.log, asked), ignore, world.drive)
    with pytest.raises(AccuracyGateError):
        state.raise_for_failure()


def test_a_replayed_run_is_followed_in_its_new_generation(world: World, tmp_path: Path) -> None:
    asked = request(trouble=trouble(tmp_path, "gate"), threshold=-100.0)
    run_id = sent(world, asked)
    world.drive()
    follower = FactFollower(world.log, asked)
    first = follower.step(ignore).outcome
    assert first is not None
    assert first.status == "failed"

    world.runs.reopen(run_id, after=0)
    announce(run_id, 1, asked, world.log)
    world.drive()
    state = follower.step(ignore)
    assert (state.generation, state.outcome) == (1, Outcome("verified", "verdict"))


def test_a_refused_request_raises_the_reason_and_an_older_refusal_does_not(world: World) -> None:
    sent(world, request(threshold=-100.0))
    sent(world, request(threshold=100.0))
    world.drive()
    same = FactFollower(world.log, request(threshold=-100.0))
    same.skip_refusals()
    assert same.step(ignore).outcome == Outcome("verified", "verdict")

    with pytest.raises(RunConflictError, match="other settings"):
        FactFollower(world.log, request(threshold=100.0)).step(ignore)


class Flaky(MemoryEventLog):
    """A log that does not answer the first time."""

    answers: int = 0

    def read(self, topic: str, position: Position = START, limit: int = 1000) -> list[Record]:
        self.answers += 1
        if self.answers == 1:
            raise UnavailableError("no answer")
        return super().read(topic, position, limit)


def test_an_outage_of_the_log_is_told_and_waited_out(world: World) -> None:
    world.log = Flaky(world.clock)
    reports: list[str] = []
    waited: list[int] = []

    class Waited(Exception):
        """The second look has begun."""

    def wait() -> None:
        waited.append(1)
        if len(waited) == 2:
            raise Waited

    with pytest.raises(Waited):
        follow(FactFollower(world.log, request()), lambda *it: reports.append(it[3]), wait)
    assert reports == ["no answer"]
