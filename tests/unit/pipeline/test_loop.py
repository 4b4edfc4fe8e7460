"""The loop of a stage, over fakes: what it does when all goes well, and at every kind of trouble."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from hagd.artifacts.leases import LeaseTable, Owner
from hagd.artifacts.reference import ArtifactRef
from hagd.artifacts.store import ArtifactStore
from hagd.errors import StoreFullError, UnknownNameError, WorkerDiedError
from hagd.events.envelope import MAX_EVENT_BYTES, Envelope
from hagd.events.log import Delivery
from hagd.events.topics import RUN_CANCELLED, RUN_FAILED, dead_letter_topic, fact_topic, requested_topic
from hagd.execution.checkpoints import load_checkpoint
from hagd.execution.executor import Task, TaskProgress, TaskResult
from hagd.execution.inline import InlineExecutor
from hagd.execution.wire import Failure
from hagd.pipeline.contract import task_key
from hagd.pipeline.dead_letters import dead_letters
from hagd.pipeline.loop import RETRY_SECONDS, StageLoop
from hagd.pipeline.request import PlanEntry, Request
from hagd.pipeline.router import RequestRouter
from hagd.pipeline.runs import RunStore
from hagd.pipeline.state import Outcome
from hagd.pipeline.submission import submit
from hagd.testing import ManualClock, MemoryEventLog, MemoryStore
from unit.pipeline.toy_stages import STAGES


@dataclass
class Deadly:
    """An executor whose worker dies some times before it works, or does what `before` does."""

    deaths: int = 0
    before: Callable[[Task], None] = lambda _: None
    tasks: list[str] = field(default_factory=list[str])

    def execute(
        self, task: Task, store: ArtifactStore, on_progress: TaskProgress, should_stop: Callable[[], bool]
    ) -> TaskResult:
        self.tasks.append(task.stage_id)
        self.before(task)
        if self.deaths > 0:
            self.deaths -= 1
            raise WorkerDiedError("the worker was killed by SIGKILL")
        return InlineExecutor().execute(task, store, on_progress, should_stop)

    def close(self) -> None:
        """Nothing to end."""


class World:
    """One store, one log, a router and the loops of the toy stages."""

    def __init__(self) -> None:
        self.clock = ManualClock(1000.0)
        self.store, self.log, self.executor = MemoryStore(), MemoryEventLog(self.clock), Deadly()
        self.runs = RunStore(self.store)
        self.reports: list[tuple[str, str]] = []
        self.router = RequestRouter(self.log, self.runs, STAGES)
        self.loops = [self.loop(stage_id) for stage_id in STAGES]

    def loop(self, stage_id: str, owner: str = "me") -> StageLoop:
        leases = LeaseTable(self.store, self.clock, Owner(owner), ended=lambda _: False)
        return StageLoop(
            STAGES[stage_id],
            self.log,
            self.store,
            self.runs,
            self.executor,
            leases,
            self.clock,
            lambda *report: self.reports.append((report[0], report[3])),
        )

    def submit(self, name: str = "first", **config: Any) -> str:
        return submit(request(name, **config), self.store, self.log, STAGES)

    def drive(self, rounds: int = 50, idle_seconds: float = 0.0) -> None:
        for _ in range(rounds):
            busy = self.router.step()
            for loop in self.loops:
                busy = loop.step() or busy
            if not busy:
                if not idle_seconds:
                    return
                self.clock.advance(idle_seconds)

    def statuses(self, run_id: str) -> list[str]:
        return [stage.status for stage in self.runs.stages(run_id)]


def request(name: str = "first", **config: Any) -> Request:
    def entry(stage_id: str, fields: Mapping[str, Any]) -> PlanEntry:
        return PlanEntry(stage_id, STAGES[stage_id].semantics_version, fields)

    numbers = {"seed": 7, **{key: config[key] for key in ("steps",) if key in config}}
    total = {key: config[key] for key in ("trouble", "shards") if key in config}
    verdict = {key: config[key] for key in ("threshold",) if key in config}
    plan = (entry("numbers", numbers), entry("total", total), entry("verdict", verdict))
    return Request("me", name, plan, lane=config.get("lane", "interactive"))


@pytest.fixture
def world() -> World:
    return World()


def trouble(tmp_path: Path, *kinds: str) -> str:
    path = tmp_path / "trouble"
    path.write_text("\n".join(kinds))
    return str(path)


def test_a_request_becomes_a_verdict_and_a_fact_per_stage(world: World) -> None:
    run_id = world.submit(threshold=-100.0)
    world.drive()
    state = world.runs.get(run_id)
    assert state.outcome == Outcome("verified", "verdict")
    assert [stage.status for stage in state.stages] == ["done", "done", "done"]
    assert set(state.outputs) == {"numbers", "total", "evidence"}
    for stage_id in STAGES:
        facts = world.log.read(fact_topic(stage_id))
        assert [fact.envelope.data["stage_id"] for fact in facts] == [stage_id]
        assert world.log.claim([requested_topic(stage_id)], 60) is None


@pytest.mark.parametrize(("threshold", "status"), [(-100.0, "verified"), (100.0, "refuted")])
def test_the_outcome_is_the_verdict_of_the_last_stage(world: World, threshold: float, status: str) -> None:
    run_id = world.submit(threshold=threshold)
    world.drive()
    outcome = world.runs.outcome(run_id)
    assert outcome is not None
    assert outcome.status == status
    (fact,) = world.log.read(fact_topic("verdict"))
    assert fact.envelope.data["verdict"] == status


def test_a_plan_without_a_verdict_ends_without_a_claim(world: World) -> None:
    run_id = submit(replace(request(), plan=request().plan[:2]), world.store, world.log, STAGES)
    world.drive()
    assert world.runs.outcome(run_id) == Outcome("no claim", "total")


def test_a_second_run_computes_only_what_is_different(world: World) -> None:
    world.submit("first", threshold=0.0)
    world.drive()
    run_id = world.submit("second", threshold=1.0)
    world.drive()
    assert world.statuses(run_id) == ["cached", "cached", "done"]
    assert world.executor.tasks == ["numbers", "total", "verdict", "verdict"]
    assert ("numbers", "already computed") in world.reports


def test_submitting_twice_changes_nothing(world: World) -> None:
    assert world.submit() == world.submit()
    world.drive()
    world.submit()
    world.drive()
    assert world.executor.tasks == ["numbers", "total", "verdict"]


def test_a_request_that_cannot_be_run_is_refused_before_anything_is_written(world: World) -> None:
    with pytest.raises(UnknownNameError):
        submit(replace(request(), plan=(PlanEntry("nope", 1),)), world.store, world.log, STAGES)
    assert world.store.objects == {}


def test_a_request_that_this_process_cannot_serve_any_more_fails_with_the_reason(world: World) -> None:
    run_id = world.submit()
    world.router = RequestRouter(world.log, world.runs, {})
    world.drive()
    outcome = world.runs.outcome(run_id)
    assert outcome is not None
    assert outcome.failure is not None
    assert outcome.failure.kind == "unknown-name"


def test_an_error_of_a_stage_ends_the_run_with_kind_message_and_hint(world: World, tmp_path: Path) -> None:
    run_id = world.submit(trouble=trouble(tmp_path, "gate"))
    world.drive()
    failure = Failure("accuracy-gate", "the model knows 3 of 7", "train it longer")
    assert world.runs.outcome(run_id) == Outcome("failed", "total", failure)
    assert world.statuses(run_id) == ["done", "running", "pending"]
    assert [fact.envelope.data["status"] for fact in world.log.read(RUN_FAILED)] == ["failed"]


def test_a_worker_that_dies_is_tried_again(world: World) -> None:
    world.executor.deaths = 4
    run_id = world.submit()
    world.drive(idle_seconds=1.0)
    assert world.statuses(run_id) == ["done", "done", "done"]
    assert ("numbers", "the worker was killed by SIGKILL; trying again") in world.reports


def test_a_task_that_kills_five_workers_fails_and_may_be_tried_again_later(world: World) -> None:
    world.executor.deaths = 5
    run_id = world.submit()
    world.drive(idle_seconds=1.0)
    outcome = world.runs.outcome(run_id)
    assert outcome is not None
    assert outcome.failure is not None
    assert outcome.failure.kind == "worker-killer"
    assert outcome.failure.message.startswith("stage 'numbers' lost its worker 5 times; at last the worker was killed")
    assert len(world.executor.tasks) == 5
    other = world.submit("second")
    world.drive()
    assert world.statuses(other) == ["done", "done", "done"]


def test_an_outage_that_a_worker_meets_is_waited_out_however_long(world: World, tmp_path: Path) -> None:
    run_id = world.submit(trouble=trouble(tmp_path, *["outage"] * 13))
    for _ in range(13):
        world.drive()
        assert world.statuses(run_id) == ["done", "running", "pending"]
        assert ("total", "the hub does not answer; trying again in 10 s") in world.reports
        world.reports.clear()
        world.clock.advance(10)
    world.drive()
    assert world.statuses(run_id) == ["done", "done", "done"]


def test_another_error_that_may_pass_is_waited_out_in_growing_steps_and_then_ends_the_run(
    world: World, tmp_path: Path
) -> None:
    run_id = world.submit(trouble=trouble(tmp_path, *["busy"] * 4))
    for seconds in RETRY_SECONDS:
        world.drive()
        assert ("total", f"too many of them; trying again in {seconds:.0f} s") in world.reports
        assert world.runs.outcome(run_id) is None
        world.clock.advance(seconds)
    world.drive()
    assert world.runs.outcome(run_id) == Outcome("failed", "total", Failure("quota-exceeded", "too many of them"))
    assert len(world.log.read(dead_letter_topic("total"))) == 1


def test_an_outage_does_not_lengthen_the_wait_after_another_error(world: World, tmp_path: Path) -> None:
    world.submit(trouble=trouble(tmp_path, "outage", "outage", "busy"))
    world.drive(rounds=40, idle_seconds=1.0)
    assert ("total", "too many of them; trying again in 10 s") in world.reports


def test_waits_for_somebody_elses_lease_do_not_lengthen_the_first_wait_after_an_error(
    world: World, tmp_path: Path
) -> None:
    world.submit(trouble=trouble(tmp_path, "busy"))
    assert world.router.step()
    assert world.loops[0].step()
    delivery = world.log.claim([requested_topic("total")], 60)
    for _ in range(5):
        assert delivery is not None
        world.log.release(delivery)
        delivery = world.log.claim([requested_topic("total")], 60)
    assert delivery is not None
    world.log.release(delivery)
    world.drive()
    assert ("total", "too many of them; trying again in 10 s") in world.reports


def test_a_full_disk_reaches_the_caller_and_the_request_is_kept(world: World, tmp_path: Path) -> None:
    run_id = world.submit(trouble=trouble(tmp_path, "full"))
    with pytest.raises(StoreFullError):
        world.drive()
    assert world.runs.outcome(run_id) is None
    world.drive()
    assert world.statuses(run_id) == ["done", "done", "done"]
    assert world.executor.tasks == ["numbers", "total", "total", "verdict"]


def test_a_run_cancelled_before_a_stage_never_starts_it(world: World) -> None:
    run_id = world.submit()
    world.router.step()
    world.runs.cancel(run_id)
    world.drive()
    assert world.executor.tasks == []
    assert world.runs.outcome(run_id) == Outcome("cancelled", "numbers")
    assert len(world.log.read(RUN_CANCELLED)) == 1


@pytest.mark.parametrize(("status", "topic"), [("cancelled", RUN_CANCELLED), ("failed", RUN_FAILED)])
def test_an_end_whose_writer_died_before_it_was_told_is_told_by_whoever_comes_next(
    world: World, status: Literal["cancelled", "failed"], topic: str
) -> None:
    run_id = world.submit()
    world.router.step()
    world.runs.finish(run_id, 0, Outcome(status, "numbers"), "somebody")
    world.drive()
    assert world.executor.tasks == []
    assert [event.envelope.data["status"] for event in world.log.read(topic)] == [status]


def test_a_run_cancelled_during_a_stage_publishes_nothing_but_keeps_the_result(world: World) -> None:
    run_id = world.submit()
    world.executor.before = lambda _: world.runs.cancel(run_id)
    world.drive()
    assert world.executor.tasks == ["numbers"]
    assert world.runs.outcome(run_id) == Outcome("cancelled", "numbers")
    assert world.log.read(requested_topic("total")) == []
    world.executor.before = lambda _: None
    other = world.submit("second")
    world.drive()
    assert world.statuses(other) == ["cached", "done", "done"]


def test_events_of_an_earlier_generation_start_nothing(world: World) -> None:
    run_id = world.submit()
    world.runs.reopen(run_id, after=0)
    world.drive()
    assert world.executor.tasks == []
    assert world.log.claim([requested_topic("numbers")], 60) is None


def test_who_meets_a_live_lease_waits_for_the_manifest(world: World) -> None:
    run_id = world.submit()
    world.router.step()
    other = LeaseTable(world.store, world.clock, Owner("other"), ended=lambda _: False)
    key = task_key(STAGES["numbers"], {}, {"seed": 7})
    lease = other.acquire(key)
    assert lease is not None
    world.drive(rounds=5, idle_seconds=1.0)
    assert world.executor.tasks == []
    assert ("numbers", "another process computes this; waiting") in world.reports
    # The other process vanishes: its lease is taken over after its time, and the loss is counted.
    world.drive(rounds=100, idle_seconds=1.0)
    assert world.statuses(run_id) == ["done", "done", "done"]


def test_a_lost_output_of_a_finished_stage_is_computed_again(world: World) -> None:
    first = world.submit("first")
    world.drive()
    before = world.runs.get(first).outputs
    del world.store.blobs[before["numbers"].sha256]
    second = world.submit("second")
    world.drive()
    assert world.statuses(second) == ["done", "cached", "cached"]
    assert world.runs.get(second).outputs == before


@pytest.mark.parametrize("damage", ["lost", "changed"])
def test_an_input_damaged_between_two_stages_is_computed_again(world: World, damage: str) -> None:
    def spoil(task: Task) -> None:
        if task.stage_id == "total" and world.executor.tasks.count("total") == 1:
            digest = task.inputs["numbers"].sha256
            if damage == "lost":
                del world.store.blobs[digest]
            else:
                world.store.blobs[digest] = b"x" * task.inputs["numbers"].bytes

    world.executor.before = spoil
    run_id = world.submit()
    world.drive()
    state = world.runs.get(run_id)
    assert (state.generation, state.outcome is not None) == (1, True)
    assert world.executor.tasks == ["numbers", "total", "numbers", "total", "verdict"]


def test_an_input_that_is_damaged_every_time_ends_the_run(world: World) -> None:
    def spoil(task: Task) -> None:
        if task.stage_id == "total":
            del world.store.blobs[task.inputs["numbers"].sha256]

    world.executor.before = spoil
    run_id = world.submit()
    world.drive()
    outcome = world.runs.outcome(run_id)
    assert outcome is not None
    assert outcome.failure is not None
    assert outcome.failure.kind == "artifact-not-found"
    assert world.executor.tasks.count("total") == 4


def test_a_version_that_is_not_served_here_waits_for_one_who_does(world: World) -> None:
    run_id = world.submit()
    world.router.step()
    loop = world.loops[0]
    loop.spec = replace(loop.spec, semantics_version=2)
    assert loop.step()
    assert not loop.step()
    assert world.runs.outcome(run_id) is None
    world.clock.advance(10)
    loop.spec = STAGES["numbers"]
    world.drive()
    assert world.runs.outcome(run_id) is not None


def test_an_interrupt_gives_the_request_back_at_once(world: World) -> None:
    def interrupt(task: Task) -> None:
        world.executor.before = lambda _: None
        raise KeyboardInterrupt

    world.executor.before = interrupt
    run_id = world.submit()
    with pytest.raises(KeyboardInterrupt):
        world.drive()
    world.drive()
    assert world.statuses(run_id) == ["done", "done", "done"]


def test_a_loop_told_to_stop_leaves_its_task_to_the_next(world: World) -> None:
    run_id = world.submit()
    world.router.step()
    loop = world.loops[0]
    world.executor.before = lambda _: loop.stop.set()
    thread = threading.Thread(target=loop.run)
    thread.start()
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert world.runs.outcome(run_id) is None
    loop.stop.clear()
    world.executor.before = lambda _: None
    world.drive()
    assert world.statuses(run_id) == ["done", "done", "done"]


def test_an_event_of_a_run_that_nobody_submitted_is_a_dead_letter_and_computes_nothing(world: World) -> None:
    world.submit()
    (asked,) = world.log.read(requested_topic("extraction"))
    world.log.append(requested_topic("numbers"), replace(asked.envelope, id="rogue", run_id="f" * 64))
    assert world.loops[0].step()
    assert world.executor.tasks == []
    (letter,) = world.log.read(dead_letter_topic("numbers"))
    assert letter.envelope.data["failure"]["message"] == f"there is no run {'f' * 64!r}"
    assert world.runs.list() == [asked.envelope.run_id]


def padded(envelope: Envelope, place: int) -> Envelope:
    """Fill an event to the last bytes that it may have, in the config of a stage of its plan."""
    room = MAX_EVENT_BYTES - len(replace(envelope, data={}).encode()) - 99
    entry = replace(envelope.plan[place], config={**envelope.plan[place].config, "padding": "x" * room})
    return replace(envelope, data={}, plan=(*envelope.plan[:place], entry, *envelope.plan[place + 1 :]))


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("place", [0, 2])
def test_an_event_that_leaves_no_room_to_tell_of_it_is_a_dead_letter_all_the_same(
    world: World, known: bool, place: int
) -> None:
    run_id = world.submit()
    (asked,) = world.log.read(requested_topic("extraction"))
    event = padded(replace(asked.envelope, id="rogue", run_id=run_id if known else "f" * 64), place)
    world.log.append(requested_topic("numbers"), event)
    loop = world.loops[0]
    assert loop.step()
    assert not loop.step()
    (letter,) = dead_letters(world.log, world.runs, ["numbers"])
    assert (letter.envelope.run_id, letter.envelope.plan) == (event.run_id, (PlanEntry("numbers", 1, {}),))
    assert [it.envelope.data["status"] for it in world.log.read(RUN_FAILED)] == ["failed"] * known
    outcome = world.runs.outcome(run_id)
    assert (outcome is not None and outcome.failure == letter.failure) == known


def test_a_run_that_is_deleted_while_its_stage_fails_breaks_no_loop(world: World, tmp_path: Path) -> None:
    run_id = world.submit(trouble=trouble(tmp_path, "gate"))
    world.executor.before = lambda task: world.runs.delete(run_id) if task.stage_id == "total" else None
    world.drive()
    assert world.runs.list() == []
    (letter,) = dead_letters(world.log, world.runs, ["total"])
    assert letter.replayed, "nothing waits for it"


def test_a_config_that_a_stage_did_not_expect_fails_its_run_and_not_the_loop(world: World) -> None:
    """The router asks the stage about a plan, but not everybody who may write to the topic of a stage is the router."""
    run_id = world.submit()
    (asked,) = world.log.read(requested_topic("extraction"))
    plan = (asked.envelope.plan[0], PlanEntry("total", 1, {"shards": "many"}), asked.envelope.plan[2])
    inputs = {"numbers": ArtifactRef("0" * 64, 7, "x/y")}
    event = replace(asked.envelope, id="rogue", stage_index=1, plan=plan, inputs=inputs)
    world.log.append(requested_topic("total"), event)
    assert world.loops[1].step()
    outcome = world.runs.outcome(run_id)
    assert outcome is not None
    assert outcome.failure is not None
    assert outcome.failure.message.startswith("TypeError: 'str' object")
    assert world.executor.tasks == []


def test_a_task_whose_claim_goes_to_another_process_is_finished_where_it_is(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when partitions are shared out anew: what was begun is neither stopped nor begun twice."""
    monkeypatch.setattr("hagd.pipeline.leasekeeper._LOOK_SECONDS", 0.01)
    run_id = world.submit()
    world.router.step()
    loop, other = world.loops[0], world.loop("numbers", "other")
    loop.leases.time_to_live_seconds = 0.03
    renewed = threading.Event()

    def extend(delivery: Delivery, seconds: float) -> bool:
        found = MemoryEventLog.extend(world.log, delivery, seconds)
        renewed.set()
        return found

    def rebalance(_: Task) -> None:
        world.log.drop_claims()
        assert other.step()
        for _ in range(2):
            renewed.clear()
            renewed.wait(0.5)

    world.log.extend = extend
    world.executor.before = rebalance
    assert loop.step()
    assert (world.executor.tasks, world.statuses(run_id)[0]) == (["numbers"], "done")
    assert ("numbers", "another process computes this; waiting") in world.reports
    world.clock.advance(1.0)
    assert other.step()
    assert not other.step()
    assert world.executor.tasks == ["numbers"]
    assert len(world.log.read(requested_topic("total"))) == 1


def test_a_cancel_costs_who_waits_for_the_same_only_what_came_after_the_last_checkpoint(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hagd.pipeline.leasekeeper._LOOK_SECONDS", 0.01)
    first, second = world.submit("first", steps=7), world.submit("second", steps=7)
    while world.router.step():
        pass
    other, found = world.loop("numbers", "other"), list[int]()

    def cancel(task: Task) -> None:
        saved = load_checkpoint(world.store, task.task_key)
        found.append(saved[0] if saved is not None else 0)
        if len(found) == 1:
            assert other.step(), "the second run waits"
            world.runs.cancel(first)
            # It ends once it has seen that.
            [thread.join(10.0) for thread in threading.enumerate() if thread.name == "lease-keeper"]

    world.executor.before = cancel
    assert world.loops[0].step()
    world.drive(idle_seconds=1.0)
    assert world.runs.outcome(first) == Outcome("cancelled", "numbers")
    assert world.statuses(second) == ["done", "done", "done"]
    assert found[:2] == [0, 1]
