"""Stages that rest: who looks at the mark, what goes on, and when nothing is at work any more."""

from datetime import timedelta

import pytest

from hagd.artifacts.leases import LeaseTable, Owner
from hagd.pipeline.control import Drain, StageControl
from unit.pipeline.test_loop import World
from unit.pipeline.test_places import Taken, first_loop

GONE = Owner("gone")


@pytest.fixture
def world() -> World:
    return World()


def draining(world: World) -> Drain:
    reader = LeaseTable(world.store, world.clock, Owner("reader"))
    return Drain(StageControl(world.store), world.runs, reader, world.clock, ended=lambda owner: owner == GONE)


def at_work(world: World, owner: Owner) -> LeaseTable:
    """Let somebody compute the first stage of a run, whose key is told by the lease of it."""
    world.submit()
    world.router.step()
    world.loops[0].executor = world.executor
    world.loops[0].step()
    (key,) = [key.rpartition("/")[2] for key in world.store.list("leases/")]
    # As if it were not done: the mark of its end is taken back, and the lease taken again.
    for name in [name for name in world.store.list("runs/") if name.endswith(".done")]:
        world.store.delete(name)
    table = LeaseTable(world.store, world.clock, owner)
    assert table.acquire(key) is not None
    return table


def test_a_paused_stage_is_listed_with_its_reason_until_it_works_again(world: World) -> None:
    control = StageControl(world.store)
    control.pause("total", "disk is full")
    control.pause("numbers")
    control.pause("total", "said twice")
    assert control.paused() == {"numbers": "", "total": "disk is full"}
    control.resume("total")
    control.resume("total")
    assert (control.is_paused("total"), control.is_paused("numbers")) == (False, True)


def test_a_paused_stage_claims_nothing_and_the_others_go_on(world: World) -> None:
    run_id = world.submit()
    StageControl(world.store).pause("total")
    world.drive(rounds=5, idle_seconds=2.0)
    assert world.statuses(run_id) == ["done", "pending", "pending"]
    StageControl(world.store).resume("total")
    world.drive(rounds=5, idle_seconds=2.0)
    assert world.statuses(run_id) == ["done", "done", "done"]


def test_what_waits_for_a_place_when_its_stage_is_paused_is_given_back_unbegun(world: World) -> None:
    world.submit()
    assert world.router.step()

    def meanwhile() -> bool:
        StageControl(world.store).pause("numbers")
        world.clock.sleep(2.0)
        return True

    loop = first_loop(world, Taken(meanwhile))
    loop.step()
    assert world.executor.tasks == []
    StageControl(world.store).resume("numbers")
    world.clock.sleep(2.0)
    assert world.loop("numbers", "another").step()
    assert world.executor.tasks == ["numbers"]


def test_draining_waits_for_the_task_at_work_and_then_for_what_was_claimed_before(world: World) -> None:
    table = at_work(world, Owner("alive"))
    told: list[int] = []

    def report(count: int) -> None:
        told.append(count)
        if len(told) == 4:
            (key,) = [key.rpartition("/")[2] for key in world.store.list("leases/")]
            lease = table.read(key)
            assert lease is not None
            assert table.release(lease)

    assert draining(world).run("numbers", timedelta(minutes=1), report) == []
    assert told == [1, 1, 1, 1, 0, 0, 0]
    assert StageControl(world.store).is_paused("numbers")


def test_draining_tells_what_is_left_when_patience_ends(world: World) -> None:
    at_work(world, Owner("alive"))
    assert len(draining(world).run("numbers", timedelta(seconds=5), lambda _: None)) == 1
    assert draining(world).run("total", timedelta(seconds=5), lambda _: None) == []


def test_a_holder_that_has_ended_is_not_waited_for(world: World) -> None:
    at_work(world, GONE)
    assert draining(world).at_work("numbers") == []
