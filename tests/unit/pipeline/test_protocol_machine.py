"""The run protocol under random faults: processes that die between any two calls, lost workers, damaged artifacts,
cancels, repeated submissions and events, claims that go to others and collections at any time, over a log, a store and
a clock in memory. The invariants are those of the design:

- a request is acknowledged only when its result, the fact that tells of it and what follows from it are written, or its
  run has ended and that was told;
- one key is never computed twice at once;
- a collection takes nothing that a run needs;
- once faults end, every run that was accepted has exactly one outcome, and the bytes of its result are those of an
  undisturbed run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hagd.artifacts.leases import LeaseTable, Owner
from hagd.artifacts.manifests import read_manifest
from hagd.artifacts.store import ArtifactStore
from hagd.errors import WorkerDiedError
from hagd.events.envelope import Envelope
from hagd.events.log import Delivery
from hagd.events.topics import LANES, RUN_CANCELLED, RUN_FAILED, Lane, fact_topic, requested_topic
from hagd.execution.executor import Task, TaskProgress, TaskResult
from hagd.execution.inline import InlineExecutor
from hagd.pipeline.housekeeping import collect
from hagd.pipeline.loop import MAX_HEALINGS, StageLoop
from hagd.pipeline.router import RequestRouter
from hagd.pipeline.runs import RunStore
from hagd.pipeline.state import Outcome
from hagd.pipeline.submission import submit
from hagd.pipeline.work import JOIN
from hagd.testing import ManualClock, MemoryEventLog, MemoryStore
from unit.pipeline.test_loop import World, request
from unit.pipeline.toy_stages import STAGES

STAGE_IDS = list(STAGES)
TOPICS = {requested_topic(stage_id, lane): stage_id for stage_id in STAGES for lane in LANES}
ENTRIES = {requested_topic("extraction", lane) for lane in LANES}


class KilledError(BaseException):
    """The process is gone: nothing it wanted to tidy up is done."""


class Mortal:
    """Passes calls on until the process is to die at one of them; a dead process reaches nothing any more."""

    def __init__(self, inner: Any, process: "Process") -> None:
        self._inner, self._process = inner, process

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if not callable(value):
            return value

        def call(*given: Any, **named: Any) -> Any:
            self._process.pass_through()
            return value(*given, **named)

        return call


@dataclass
class Process:
    """One replica of every service."""

    world: "ProtocolMachine"
    name: str
    calls_left: int | None = None
    """Calls of log or store until it dies; None: it lives on."""
    dead: bool = False
    loops: dict[str, StageLoop] = field(init=False)
    router: RequestRouter = field(init=False)

    def __post_init__(self) -> None:
        world = self.world
        store, log = Mortal(world.store, self), Mortal(world.log, self)
        runs = RunStore(store)
        self.router = RequestRouter(log, runs, STAGES)
        self.loops = {}
        for stage_id, spec in STAGES.items():
            leases = LeaseTable(store, world.clock, Owner(f"{self.name}-{stage_id}"), ended=lambda _: False)
            self.loops[stage_id] = StageLoop(spec, log, store, runs, world, leases, world.clock)

    def pass_through(self) -> None:
        if self.dead:
            raise KilledError
        if self.calls_left is not None:
            self.calls_left -= 1
            if self.calls_left < 0:
                self.dead = True
                raise KilledError


class CheckedLog(MemoryEventLog):
    """Checks, at every acknowledgement, that nothing would be lost if the process died right after it."""

    check: Callable[[Delivery], None] = staticmethod(lambda _: None)

    def ack(self, delivery: Delivery) -> bool:
        self.check(delivery)
        return super().ack(delivery)


class ProtocolMachine(RuleBasedStateMachine):
    """Also the executor of all processes: it computes in place, and lets others step while it does."""

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.store = ManualClock(1000.0), MemoryStore()
        self.log = CheckedLog(self.clock)
        self.log.check = self.check_ack
        self.runs = RunStore(self.store)
        self.accepted: dict[str, dict[str, Any]] = {}
        self.cancelled: set[str] = set()
        self.computing: list[str] = []
        self.deaths = self.damages = 0
        self.meddle: tuple[str, Callable[[], None]] | None = None
        """What somebody does meanwhile, before a task is computed or after."""
        self.started = 0
        self.processes: list[Process] = []

    @initialize(tells_repeats=st.booleans())
    def start(self, tells_repeats: bool) -> None:
        self.log.tells_repeats = tells_repeats
        self.processes = [self.new_process() for _ in range(2)]

    def new_process(self) -> Process:
        self.started += 1
        return Process(self, f"p{self.started}")

    def execute(
        self, task: Task, store: ArtifactStore, on_progress: TaskProgress, should_stop: Callable[[], bool]
    ) -> TaskResult:
        assert task.task_key not in self.computing, "one key is computed twice at once"
        self.computing.append(task.task_key)
        try:
            self.let_meddle("before")
            if self.deaths:
                self.deaths -= 1
                raise WorkerDiedError("the worker was killed by SIGKILL")
            result = InlineExecutor().execute(task, store, on_progress, should_stop)
            # Outputs are in the store, and nothing names them yet.
            self.let_meddle("after")
            return result
        finally:
            self.computing.remove(task.task_key)

    def let_meddle(self, when: str) -> None:
        if self.meddle is not None and self.meddle[0] == when:
            (_, meddle), self.meddle = self.meddle, None
            meddle()

    def close(self) -> None:
        """Nothing to end."""

    def check_ack(self, delivery: Delivery) -> None:
        topic, envelope = delivery.record.topic, delivery.envelope
        run_id, generation = envelope.run_id, envelope.generation
        if self.runs.generation(run_id) != generation:
            return
        outcome = self.runs.outcome(run_id, generation)
        if outcome is not None:
            # Who hands requests on ends no run, so whoever ended this one has yet to acknowledge another event.
            assert topic in ENTRIES or self.is_told(outcome, run_id, generation), "the end was not told"
            return
        if topic in ENTRIES:
            # In the lane of the stored request, which a later one of the same id may have changed.
            first = [requested_topic(envelope.plan[0].stage_id, lane) for lane in LANES]
            handed_on = [it.envelope.id for name in first for it in self.log.read(name)]
            assert envelope.id in handed_on, "a request was dropped"
            return
        index = STAGE_IDS.index(TOPICS[topic])
        state = self.runs.stages(run_id, generation)[index]
        shards = self.runs.shards(run_id, generation, index, state.stage_id)
        if shards and envelope.part != JOIN:
            self.check_ack_of_part(topic, envelope, shards)
            return
        assert state.status in ("done", "cached")
        assert read_manifest(self.store, state.task_key) is not None
        assert self.holds(fact_topic(state.stage_id), run_id, generation), "the result was not told"
        following = requested_topic(envelope.plan[index + 1].stage_id, envelope.lane)
        assert self.holds(following, run_id, generation), "the next stage was not asked"

    def is_told(self, outcome: Outcome, run_id: str, generation: int) -> bool:
        ends = {"cancelled": RUN_CANCELLED, "failed": RUN_FAILED}
        return self.holds(ends.get(outcome.status, fact_topic(outcome.stage_id)), run_id, generation)

    def holds(self, topic: str, run_id: str, generation: int) -> bool:
        """Say whether a topic has an event of a generation of a run."""
        events = (it.envelope for it in self.log.read(topic))
        return any((it.run_id, it.generation) == (run_id, generation) for it in events)

    def check_ack_of_part(self, topic: str, envelope: Envelope, shards: Sequence[str]) -> None:
        """A divided task waits as its shards; the last of them to be done asks for the join."""
        asked = {
            it.envelope.part
            for it in self.log.read(topic)
            if (it.envelope.run_id, it.envelope.generation) == (envelope.run_id, envelope.generation)
        }
        # Until the request for the whole is acknowledged, it will ask for those that are missing.
        if envelope.part == "":
            assert asked >= {str(number) for number in range(len(shards))}, "a shard was not asked for"
        elif all(read_manifest(self.store, key) is not None for key in shards):
            assert JOIN in asked, "nobody joins"

    @rule(
        name=st.sampled_from("abc"),
        steps=st.sampled_from([2, 3]),
        shards=st.sampled_from([1, 3]),
        lane=st.sampled_from(LANES),
    )
    def ask(self, name: str, steps: int, shards: int, lane: Lane) -> None:
        request_id = f"{name}{steps}{shards}"
        run_id = submit(request(request_id, steps=steps, shards=shards, lane=lane), self.store, self.log, STAGES)
        self.accepted[run_id] = {"request_id": request_id, "steps": steps, "shards": shards}

    @rule(which=st.integers(0, 1), stage=st.sampled_from(["router", *STAGE_IDS]))
    def step(self, which: int, stage: str) -> None:
        self.let(self.processes[which], stage)

    @rule(which=st.integers(0, 1), stage=st.sampled_from(["router", *STAGE_IDS]), calls=st.integers(0, 60))
    def step_and_die_on_the_way(self, which: int, stage: str, calls: int) -> None:
        process = self.processes[which]
        process.calls_left = calls
        self.let(process, stage)
        process.calls_left = None
        if process.dead:
            self.processes[which] = self.new_process()

    @rule(
        stage=st.sampled_from(STAGE_IDS),
        when=st.sampled_from(["before", "after"]),
        seconds=st.sampled_from([0.0, 20.0]),
        rebalances=st.booleans(),
        collects=st.booleans(),
    )
    def step_while_another_meddles(
        self, stage: str, when: str, seconds: float, rebalances: bool, collects: bool
    ) -> None:
        def meddle() -> None:
            self.clock.advance(seconds)
            if rebalances:
                self.rebalance()
            if collects:
                self.collect_garbage()
            self.let(self.processes[1], stage)

        self.meddle = when, meddle
        self.let(self.processes[0], stage)
        self.meddle = None

    @rule(which=st.integers(0, 1), stage=st.sampled_from(STAGE_IDS))
    def step_with_a_worker_that_dies(self, which: int, stage: str) -> None:
        self.deaths = 1
        self.let(self.processes[which], stage)
        self.deaths = 0

    @rule(seconds=st.sampled_from([1.0, 31.0, 61.0, 101.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @precondition(lambda self: self.accepted)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        run_id = data.draw(st.sampled_from(sorted(self.accepted)))
        self.runs.cancel(run_id)
        self.cancelled.add(run_id)

    @precondition(lambda self: self.store.blobs and self.damages < MAX_HEALINGS)
    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        self.damages += 1
        self.store.blobs[data.draw(st.sampled_from(sorted(self.store.blobs)))] = b"rotten"

    @rule()
    def rebalance(self) -> None:
        self.log.drop_claims()

    @precondition(lambda self: self.accepted)
    @rule(data=st.data(), topic=st.sampled_from(sorted({*TOPICS, *ENTRIES})))
    def send_again(self, data: st.DataObject, topic: str) -> None:
        events = self.log.read(topic)
        if events:
            self.log.append(topic, data.draw(st.sampled_from(events)).envelope)

    @rule()
    def collect_garbage(self) -> None:
        collect(self.store, self.runs, self.clock, grace_seconds=100.0)

    @invariant()
    def computes_nothing_between_steps(self) -> None:
        assert self.computing == []

    def let(self, process: Process, stage: str) -> None:
        if process.dead:
            return
        try:
            process.router.step() if stage == "router" else process.loops[stage].step()
        except KilledError:
            assert process.dead

    def teardown(self) -> None:
        process = self.new_process()
        for _ in range(400):
            if all(self.runs.outcome(run_id) is not None for run_id in self.accepted):
                break
            for stage in ("router", *STAGE_IDS):
                self.let(process, stage)
            self.clock.advance(5.0)
        for run_id, asked in self.accepted.items():
            self.check_end(run_id, asked)

    def check_end(self, run_id: str, asked: dict[str, Any]) -> None:
        state = self.runs.get(run_id)
        assert state.outcome is not None, "an accepted run has no outcome"
        if state.outcome.status == "cancelled":
            assert run_id in self.cancelled
            return
        assert state.outcome.status in ("verified", "refuted"), state.outcome
        undisturbed = World()
        other = undisturbed.submit(asked["request_id"], steps=asked["steps"], shards=asked["shards"])
        undisturbed.drive()
        assert state.outcome == undisturbed.runs.get(other).outcome
        assert state.outputs == undisturbed.runs.get(other).outputs
        rotten = [ref for ref in state.outputs.values() if not self.store.check_blob(ref)]
        assert len(rotten) <= self.damages


ProtocolMachine.TestCase.settings = settings(
    max_examples=300, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestProtocol = ProtocolMachine.TestCase
