"""Collections remove what nobody needs, later and never at once, and nothing else."""

import json
from pathlib import Path

import pytest

from hagd.artifacts.document import Document
from hagd.artifacts.leases import LeaseTable, Owner
from hagd.cli.app import run as hagd
from hagd.errors import RunConflictError, RunError
from hagd.execution.checkpoints import save_checkpoint
from hagd.execution.inline import InlineExecutor
from hagd.pipeline.embedded import EmbeddedRuntime
from hagd.pipeline.housekeeping import Collected, collect, delete_run, usage
from unit.pipeline.test_loop import World, request
from unit.pipeline.toy_stages import STAGES

DAY = 24 * 3600.0


def finished(*names: str) -> tuple[World, list[str]]:
    world = World()
    world.store.clock = world.clock
    ids = [world.submit(name, steps=steps) for steps, name in enumerate(names, start=2)]
    world.drive()
    return world, ids


def gc(world: World, *, dry_run: bool = False, grace_seconds: float = DAY) -> Collected:
    return collect(world.store, world.runs, world.clock, grace_seconds=grace_seconds, dry_run=dry_run)


def test_what_runs_name_is_never_collected() -> None:
    world, _ = finished("one", "two")
    for _ in range(3):
        assert gc(world, grace_seconds=0) == Collected(0, 0, 0, 0, 0)
        world.clock.advance(DAY)


def test_blobs_of_a_deleted_run_go_with_the_first_collection_after_their_grace() -> None:
    world, (gone, kept) = finished("one", "two")
    before = dict(world.store.blobs)
    delete_run(world.runs, gone)
    first = gc(world)
    assert (first.manifests, first.blobs) == (3, 0)
    assert first.waiting_blobs > 0
    assert world.store.blobs == before
    world.clock.advance(DAY / 2)
    assert gc(world).blobs == 0
    world.clock.advance(DAY / 2)
    assert gc(world).blobs == first.waiting_blobs
    state = world.runs.get(kept)
    assert all(world.store.check_blob(ref) for ref in state.outputs.values())
    assert len(world.store.blobs) == len(before) - first.waiting_blobs


def test_what_a_run_takes_up_in_its_grace_stays() -> None:
    world, (gone, _) = finished("one", "two")
    delete_run(world.runs, gone)
    gc(world)
    world.submit("again", steps=2)
    world.drive()
    world.clock.advance(2 * DAY)
    assert gc(world).blobs == 0


def test_a_dry_run_changes_nothing() -> None:
    world, (gone, _) = finished("one", "two")
    delete_run(world.runs, gone)
    objects, blobs = dict(world.store.objects), dict(world.store.blobs)
    assert gc(world, dry_run=True).manifests == 3
    assert (world.store.objects, world.store.blobs) == (objects, blobs)


def test_a_task_at_work_keeps_its_checkpoints_and_an_abandoned_one_does_not() -> None:
    world, _ = finished("one")
    keys = "a" * 64, "b" * 64
    for key in keys:
        save_checkpoint(world.store, key, 1, 5, Document({"of": key}))
    LeaseTable(world.store, world.clock, Owner("busy")).acquire(keys[0])
    found = gc(world)
    assert (found.manifests, found.waiting_blobs) == (1, 0), "the abandoned checkpoint goes whole, nothing refers to it"
    assert [key.split("/")[2] for key in world.store.list("checkpoints/")] == [keys[0]]


def test_a_task_that_begins_during_a_collection_keeps_its_lease_and_checkpoints(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, key = World(), "a" * 64
    other = LeaseTable(world.store, world.clock, Owner("busy"))
    look = world.store.list

    def look_and_be_overtaken(prefix: str) -> list[str]:
        if prefix == "manifests/" and (lease := other.acquire(key)) is not None:
            save_checkpoint(world.store, key, lease.epoch, 5, Document({"of": key}))
        return look(prefix)

    monkeypatch.setattr(world.store, "list", look_and_be_overtaken)
    assert gc(world).manifests == 0
    assert len(look("checkpoints/")) == len(look("leases/")) == 1


def test_an_abandoned_task_that_is_taken_up_during_a_collection_is_left_to_its_holder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, key = World(), "a" * 64
    save_checkpoint(world.store, key, 1, 5, Document({"of": key}))
    other = LeaseTable(world.store, world.clock, Owner("busy"))
    left = other.acquire(key)
    assert left is not None
    other.release(left)
    read = world.store.read

    def read_and_be_overtaken(name: str) -> object:
        there = read(name)
        if name.startswith("leases/"):
            monkeypatch.setattr(world.store, "read", read)
            assert other.acquire(key) is not None
        return there

    monkeypatch.setattr(world.store, "read", read_and_be_overtaken)
    assert gc(world).manifests == 0
    assert len(world.store.list("checkpoints/")) == 1
    lease = other.read(key)
    assert lease is not None
    assert other.renew(lease) is not None


def test_a_blob_that_a_task_has_put_again_and_not_named_yet_stays() -> None:
    world, (gone, _) = finished("one", "two")
    delete_run(world.runs, gone)
    waiting = gc(world).waiting_blobs
    world.clock.advance(DAY)
    noted = json.loads(world.store.objects["gc/unneeded"])
    digest, *_ = noted
    world.store.put_blob(world.store.blobs[digest], "application/json")
    dry = gc(world, dry_run=True)
    assert gc(world) == dry
    assert dry.blobs == waiting - 1
    assert digest in world.store.blobs
    assert gc(world).blobs == 0
    world.clock.advance(DAY)
    assert gc(world).blobs == 1, "nobody named it in its new time of grace"


def test_a_run_that_has_not_ended_is_not_deleted() -> None:
    world = World()
    run_id = world.submit("going")
    with pytest.raises(RunError, match="has not ended"):
        delete_run(world.runs, run_id)


def test_a_deletion_that_was_interrupted_leaves_no_run_and_is_finished_by_a_collection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, (gone, kept) = finished("one", "two")
    steps, delete = iter(range(3)), world.store.delete

    def delete_until_the_end(key: str) -> None:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        delete(key)

    with monkeypatch.context() as patch:
        patch.setattr(world.store, "delete", delete_until_the_end)
        with pytest.raises(KeyboardInterrupt):
            delete_run(world.runs, gone)
    assert world.store.list(f"runs/{gone}/")
    assert world.runs.list() == [kept]
    assert gc(world, dry_run=True).manifests == 3
    assert world.store.list(f"runs/{gone}/")
    gc(world)
    assert world.store.list(f"runs/{gone}/") == []
    assert world.runs.get(kept).outcome is not None


def test_of_two_collectors_one_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    world, (gone, _) = finished("one", "two")
    delete_run(world.runs, gone)
    gc(world)
    read = world.store.read

    def read_and_be_overtaken(key: str) -> object:
        there = read(key)
        if key.startswith("gc/"):
            world.store.objects[key] = b"{}"
        return there

    monkeypatch.setattr(world.store, "read", read_and_be_overtaken)
    with pytest.raises(RunConflictError, match="another collection"):
        gc(world)


def test_usage_counts_what_is_shared_once_in_all_and_for_each_run() -> None:
    world, (first, second) = finished("one", "two")
    again = world.submit("same-as-one", steps=2)
    world.drive()
    found = usage(world.store, world.runs)
    assert found.bytes == found.needed_bytes == sum(map(len, world.store.blobs.values()))
    assert found.by_run[again] == found.by_run[first]
    assert found.by_run[first] + found.by_run[second] >= found.bytes


def test_the_command_line_shows_usage_deletes_and_collects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "run"
    with EmbeddedRuntime(root, executor=InlineExecutor(), stages=STAGES) as runtime:
        run_id = runtime.run(request("one")).run_id
    assert hagd(["store", "usage", str(root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"]["by_run"].keys() == {run_id}
    assert hagd(["run", "delete", str(root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"] == {"run_id": run_id}
    assert hagd(["store", "gc", str(root), "--grace-hours", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"]["waiting_blobs"] > 0
    assert hagd(["store", "gc", str(root), "--grace-hours", "0"]) == 0
    assert list((root / "store" / "blobs").glob("*/*")) == []


def test_a_store_that_other_folders_share_is_not_collected_from_one_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "run"
    with EmbeddedRuntime(root, executor=InlineExecutor(), stages=STAGES, store=tmp_path / "shared") as runtime:
        runtime.run(request("one"))
    assert hagd(["store", "gc", str(root)]) == 1
    assert "shared" in capsys.readouterr().err
