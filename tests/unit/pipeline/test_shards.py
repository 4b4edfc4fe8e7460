"""Stages that divide their task: every shard once, one join, and the same protocol when something is lost."""

from pathlib import Path

import pytest

from hagd.artifacts.manifests import read_manifest
from hagd.events.topics import fact_topic, requested_topic
from hagd.execution.executor import Task
from hagd.pipeline.contract import shard_key
from hagd.pipeline.housekeeping import collect
from hagd.pipeline.state import Outcome
from unit.pipeline.test_loop import World, trouble
from unit.pipeline.toy_stages import TOTAL, split


@pytest.fixture
def world() -> World:
    return World()


def shard_keys(world: World, run_id: str) -> list[str]:
    numbers = world.runs.get(run_id).outputs["numbers"]
    return [shard_key(TOTAL, {"numbers": numbers}, config) for config in split({"shards": 3})]


def test_a_divided_task_is_computed_in_shards_and_joined_once(world: World) -> None:
    run_id = world.submit(steps=7, shards=3, threshold=-100.0)
    world.drive()
    assert world.runs.outcome(run_id) == Outcome("verified", "verdict")
    # Numbers, three shards, their join, the verdict.
    assert world.executor.tasks == ["numbers", "total", "total", "total", "total", "verdict"]
    asked = [record.envelope.part for record in world.log.read(requested_topic("total"))]
    assert asked == ["", "0", "1", "2", "join"]
    assert len(world.log.read(fact_topic("total"))) == 1


def test_a_divided_task_gives_what_the_whole_gives(world: World) -> None:
    whole = world.submit("whole", steps=7)
    divided = world.submit("divided", steps=7, shards=3)
    world.drive()
    totals = [
        world.store.get_blob(world.runs.get(run_id).outputs["total"]).decode().partition(":")[2].rstrip("}")
        for run_id in (whole, divided)
    ]
    assert float(totals[0]) == pytest.approx(float(totals[1]), rel=1e-12)


def test_one_shard_is_no_division(world: World) -> None:
    world.submit(steps=5, shards=1)
    world.drive()
    assert [record.envelope.part for record in world.log.read(requested_topic("total"))] == [""]


def test_shards_that_are_there_are_not_computed_again(world: World) -> None:
    first = world.submit("first", steps=7, shards=3)
    for _ in range(20):
        world.drive(rounds=1)
        if world.executor.tasks.count("total") == 2:
            break
    world.runs.cancel(first)
    world.drive()
    second = world.submit("second", steps=7, shards=3)
    world.drive()
    assert world.runs.outcome(first) == Outcome("cancelled", "total")
    assert world.statuses(second) == ["cached", "done", "done"]
    assert world.executor.tasks.count("total") == 4


def test_a_cancelled_run_leaves_its_shards_undone(world: World) -> None:
    run_id = world.submit(steps=7, shards=3)
    world.executor.before = lambda task: world.runs.cancel(run_id) if task.stage_id == "total" else None
    world.drive()
    assert world.executor.tasks == ["numbers", "total"]
    assert world.runs.outcome(run_id) == Outcome("cancelled", "total")


def test_a_shard_that_fails_ends_the_run_with_its_reason(world: World, tmp_path: Path) -> None:
    run_id = world.submit(steps=7, shards=3, trouble=trouble(tmp_path, "gate"))
    world.drive()
    outcome = world.runs.outcome(run_id)
    assert outcome is not None
    assert (outcome.status, outcome.stage_id) == ("failed", "total")
    assert world.executor.tasks == ["numbers", "total"]


def test_a_shard_whose_worker_dies_is_tried_again(world: World) -> None:
    def kill_the_first_shard(_: Task) -> None:
        world.executor.deaths = int(world.executor.tasks == ["numbers", "total"])

    world.executor.before = kill_the_first_shard
    run_id = world.submit(steps=7, shards=3)
    world.drive(idle_seconds=1.0)
    assert world.statuses(run_id) == ["done", "done", "done"]
    assert world.executor.tasks.count("total") == 5


@pytest.mark.parametrize("loss", ["manifest", "blob"])
def test_the_lost_result_of_a_shard_is_computed_again_before_the_join(world: World, loss: str) -> None:
    run_id = world.submit(steps=7, shards=3)
    while not any(record.envelope.part == "join" for record in world.log.read(requested_topic("total"))):
        # One step of the middle stage at a time, so that the join is still to come.
        assert any([world.router.step(), *(loop.step() for loop in world.loops[:2])])
    key = shard_keys(world, run_id)[1]
    manifest = read_manifest(world.store, key)
    assert manifest is not None
    if loss == "manifest":
        world.store.delete(f"manifests/{key[:2]}/{key}/0000")
    else:
        del world.store.blobs[manifest.outputs["part"].sha256]
    world.drive()
    state = world.runs.get(run_id)
    assert state.generation == 1
    assert state.outcome is not None
    assert state.outcome.status in ("verified", "refuted")
    # The lost shard and the join, and nothing else, once more at most.
    assert world.executor.tasks.count("numbers") == 1


def test_a_collection_spares_the_shards_of_a_stage_that_is_not_joined(world: World) -> None:
    run_id = world.submit(steps=7, shards=3)
    while not any(record.envelope.part == "join" for record in world.log.read(requested_topic("total"))):
        assert any([world.router.step(), *(loop.step() for loop in world.loops[:2])])
    for _ in range(2):
        collect(world.store, world.runs, world.clock, grace_seconds=0.0)
    assert all(read_manifest(world.store, key) is not None for key in shard_keys(world, run_id))
    world.drive()
    assert world.runs.get(run_id).generation == 0
    keys = shard_keys(world, run_id)
    collect(world.store, world.runs, world.clock, grace_seconds=0.0)
    assert all(read_manifest(world.store, key) is None for key in keys)
