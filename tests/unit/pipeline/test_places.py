"""More loops than places: results that are there pass while all workers are busy, and work waits without a lease."""

import threading
from collections.abc import Callable

import pytest

from hagd.events.topics import requested_topic
from hagd.pipeline.loop import StageLoop
from hagd.pipeline.places import Places
from unit.pipeline.test_loop import World


class Taken(threading.Semaphore):
    """No place is free; whoever waits for one gets it after `meanwhile`, which may say no."""

    def __init__(self, meanwhile: Callable[[], bool] = lambda: True) -> None:
        super().__init__(0)
        self.meanwhile, self.given_back = meanwhile, 0

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:  # noqa: ARG002  # as threading has it
        return blocking and self.meanwhile()

    def release(self, n: int = 1) -> None:
        self.given_back += n


@pytest.fixture
def world() -> World:
    return World()


def first_loop(world: World, places: Taken) -> StageLoop:
    loop = world.loops[0]
    loop.places = Places(places)
    return loop


def asked(world: World, name: str, **config: int) -> str:
    """Submit, and hand the request to the first stage."""
    run_id = world.submit(name, **config)
    assert world.router.step()
    return run_id


def test_a_result_that_is_there_needs_no_place(world: World) -> None:
    world.submit("first", steps=7)
    world.drive()

    def never() -> bool:
        raise AssertionError("waited for a place")

    run_id = asked(world, "again", steps=7)
    assert first_loop(world, Taken(never)).step()
    assert world.statuses(run_id)[0] == "cached"


def test_what_waits_for_a_place_is_held_without_a_lease_and_then_computed(world: World) -> None:
    run_id = asked(world, "first", steps=7)
    seen: list[tuple[list[str], bool]] = []

    def meanwhile() -> bool:
        # More than the time for which a request is claimed.
        world.clock.sleep(50.0)
        topic = requested_topic("numbers")
        seen.append((world.store.list("leases/"), world.log.claim([topic], 1.0) is not None))
        return len(seen) == 3

    places = Taken(meanwhile)
    assert first_loop(world, places).step()
    assert seen == [([], False)] * 3
    assert world.statuses(run_id)[0] == "done"
    assert places.given_back == 1


def test_a_run_that_is_cancelled_while_it_waits_for_a_place_is_never_begun(world: World) -> None:
    run_id = asked(world, "first", steps=7)

    def meanwhile() -> bool:
        world.runs.cancel(run_id)
        return True

    places = Taken(meanwhile)
    assert first_loop(world, places).step()
    outcome = world.runs.outcome(run_id)
    assert (outcome and outcome.status, world.executor.tasks, places.given_back) == ("cancelled", [], 1)


def test_a_run_that_is_cancelled_ends_before_a_place_is_free(world: World) -> None:
    run_id = asked(world, "first", steps=7)

    def meanwhile() -> bool:
        assert not world.runs.is_cancelled(run_id, 0), "still waits"
        world.runs.cancel(run_id)
        return False

    loop = first_loop(world, Taken(meanwhile))
    assert loop.step()
    assert not loop.step()
    outcome = world.runs.outcome(run_id)
    assert (outcome and outcome.status, world.executor.tasks) == ("cancelled", [])


def test_who_is_told_to_stop_while_waiting_gives_the_request_back(world: World) -> None:
    run_id = asked(world, "first", steps=7)
    places = Taken()
    loop = first_loop(world, places)

    def meanwhile() -> bool:
        loop.draining.set()
        return False

    places.meanwhile = meanwhile
    assert loop.step()
    assert world.executor.tasks == []
    assert world.loop("numbers", "another").step()
    assert world.statuses(run_id)[0] == "done"


def test_a_spare_loop_leaves_batches_to_the_others(world: World) -> None:
    world.submit("batch", steps=7, lane="batch")
    assert world.router.step()
    loop = world.loops[0]
    loop.spare = True
    assert not loop.step()
    loop.spare = False
    assert loop.step()
