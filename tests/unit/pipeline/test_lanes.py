"""Lanes, pauses and quotas: who waits for whom."""

import pytest

from hagd.errors import QuotaExceededError
from hagd.events.topics import requested_topic
from hagd.pipeline.control import StageControl
from hagd.pipeline.loop import BATCH_TURN
from hagd.pipeline.quotas import Quota
from hagd.pipeline.runs import RunStore
from hagd.pipeline.submission import submit
from unit.pipeline.test_loop import World, request
from unit.pipeline.toy_stages import STAGES


@pytest.fixture
def world() -> World:
    return World()


def test_a_person_does_not_wait_for_a_batch_but_the_batch_never_stands_still(world: World) -> None:
    batch = [world.submit(f"batch{i}", steps=i + 2, lane="batch") for i in range(4)]
    people = [world.submit(f"person{i}", steps=i + 12) for i in range(5)]
    while world.router.step():
        pass
    order: list[str] = []
    while world.loops[0].step():
        done = [r for r in [*batch, *people] if world.runs.stages(r)[0].status == "done" and r not in order]
        order += done
    first_batch = next(place for place, run_id in enumerate(order) if run_id in batch)
    assert first_batch == BATCH_TURN - 1
    assert set(order) == {*batch, *people}
    assert order.index(people[-1]) < order.index(batch[-1])


def test_a_run_stays_in_its_lane_to_the_end(world: World) -> None:
    run_id = world.submit(lane="batch", steps=7, shards=2)
    world.drive()
    assert world.runs.outcome(run_id) is not None
    for stage_id in ("numbers", "total", "verdict"):
        assert world.log.read(requested_topic(stage_id)) == []
        assert world.log.read(requested_topic(stage_id, "batch"))


def test_the_lane_is_no_part_of_what_makes_a_request(world: World) -> None:
    assert world.submit("same") == world.submit("same", lane="batch")


def test_a_paused_stage_takes_nothing_and_loses_nothing(world: World) -> None:
    control = StageControl(world.store)
    control.pause("total", "the disk is being changed")
    run_id = world.submit()
    world.drive()
    assert world.statuses(run_id) == ["done", "pending", "pending"]
    assert control.paused() == {"total": "the disk is being changed"}
    control.resume("total")
    world.drive(idle_seconds=1.0)
    assert world.statuses(run_id) == ["done", "done", "done"]


def test_a_principal_at_its_limit_waits_until_a_run_ends(world: World) -> None:
    quota = Quota(2)
    ids = [submit(request(name), world.store, world.log, quota=quota, stages=STAGES) for name in ("a", "b")]
    with pytest.raises(QuotaExceededError, match="2 runs that go on, 2 are allowed"):
        submit(request("c"), world.store, world.log, quota=quota, stages=STAGES)
    # What was accepted may be asked for again.
    assert submit(request("a"), world.store, world.log, quota=quota, stages=STAGES) == ids[0]
    world.drive()
    submit(request("c"), world.store, world.log, quota=quota, stages=STAGES)


def test_a_mark_that_outlived_a_crash_holds_nobody_up(world: World) -> None:
    run_id = world.submit("a")
    world.drive()
    RunStore(world.store).active.mark("me", run_id)
    submit(request("b"), world.store, world.log, quota=Quota(1), stages=STAGES)
