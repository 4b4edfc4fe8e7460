"""What a loop tells of its work: claims and outcomes, time that was wasted and why, gauges while it computes."""

from collections.abc import Callable

import pytest

from hagd.artifacts.leases import LeaseTable
from hagd.errors import CancelledError, HagdError, StoreFullError, UnavailableError, WorkerDiedError
from hagd.events.topics import ENTRY_STAGE, requested_topic
from hagd.execution.executor import Task
from hagd.execution.inline import InlineExecutor
from hagd.pipeline.contract import task_key
from hagd.pipeline.loop import StageLoop
from hagd.pipeline.request import PlanEntry, Request
from hagd.pipeline.router import RequestRouter
from hagd.pipeline.runs import RunStore
from hagd.pipeline.submission import submit
from hagd.pipeline.watch import StageWatch, declare_entry, declare_stage
from hagd.testing import ManualClock, MemoryEventLog, MemoryStore, RecordingMeter
from unit.pipeline.toy_stages import NUMBERS, STAGES


class Slow(InlineExecutor):
    """Takes seven seconds, then does what `then` does, then works."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self._clock = clock
        self.then: Callable[[], None] = lambda: None

    def execute(self, task: Task, *arguments: object) -> object:  # type: ignore[override]
        self._clock.advance(7.0)
        self.then()
        return super().execute(task, *arguments)  # type: ignore[arg-type]


class World:
    """One loop under watch, and a request for its stage."""

    def __init__(self) -> None:
        self.clock, self.meter = ManualClock(1000.0), RecordingMeter()
        self.store, self.log = MemoryStore(), MemoryEventLog(self.clock)
        self.runs = RunStore(self.store)
        self.watch = StageWatch(self.meter, self.clock)
        self.executor = Slow(self.clock)
        self.leases = LeaseTable(self.store, self.clock)
        parts = (self.log, self.store, self.runs, self.executor, self.leases, self.clock)
        self.loop = StageLoop(NUMBERS, *parts, watch=self.watch)
        self.run_id = self.submit("one")

    def submit(self, name: str) -> str:
        request = Request("me", name, (PlanEntry("numbers", 1, {"seed": 3}),))
        run_id = submit(request, self.store, self.log, STAGES)
        RequestRouter(self.log, self.runs, STAGES, self.meter).step()
        return run_id

    def told(self, metric: str, *labels: str) -> float:
        return self.meter.values.get((f"hagd_{metric}", "numbers", *labels), 0.0)

    def wasted(self) -> dict[str, float]:
        name = "hagd_wasted_compute_seconds_total"
        return {key[2]: value for key, value in self.meter.values.items() if key[0] == name}


@pytest.fixture
def world() -> World:
    return World()


def test_a_computed_and_a_found_result_are_told_apart(world: World) -> None:
    world.loop.step()
    world.submit("two")
    world.loop.step()
    assert world.told("requests_claimed_total") == 2
    assert world.told("requests_settled_total", "done") == 1
    assert world.told("requests_settled_total", "cached") == 1
    assert world.told("manifest_hits_total") == 1
    assert world.told("stage_seconds") == 7
    assert world.told("request_attempts") == 2
    assert world.wasted() == {}


def test_while_a_task_is_computed_it_is_in_flight_and_its_lease_ages(world: World) -> None:
    declare_stage("numbers", [world.watch], 1, world.log, world.meter, world.clock)
    seen: list[float] = []
    age = world.meter.questions["hagd_lease_age_seconds", "numbers"]
    oldest = world.meter.questions["hagd_oldest_unacknowledged_seconds", "numbers"]
    world.executor.then = lambda: seen.extend([world.told("tasks_in_flight"), age(), oldest()])
    world.clock.advance(4)
    world.loop.step()
    assert seen == [1, 7, 11]
    assert [world.told("tasks_in_flight"), age(), oldest()] == [0, 0, 0]
    assert world.told("task_capacity") == 1


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (WorkerDiedError("killed"), "died"),
        (UnavailableError("no hub"), "retried"),
        (CancelledError("stopped"), "interrupted"),
        (HagdError("broken"), "failed"),
        (StoreFullError("no room"), "outage"),
        (ZeroDivisionError("by 0"), "broken"),
    ],
)
def test_the_time_of_a_computation_without_a_result_is_wasted(world: World, error: Exception, outcome: str) -> None:
    def then() -> None:
        raise error

    world.executor.then = then
    if isinstance(error, StoreFullError | ZeroDivisionError):
        with pytest.raises(type(error)):
            world.loop.step()
    else:
        world.loop.step()
    assert world.told("requests_settled_total", outcome) == 1
    assert world.wasted() == {outcome: 7.0}
    assert world.told("dead_letters_total") == (outcome == "failed")
    assert world.told("retries_total", "10s") == (outcome == "retried")
    assert world.told("stage_seconds") == 0


def test_a_result_that_nobody_waits_for_any_more_was_computed_in_vain(world: World) -> None:
    world.executor.then = lambda: world.runs.cancel(world.run_id)
    world.loop.step()
    assert world.told("requests_settled_total", "over") == 1
    assert world.wasted() == {"over": 7.0}


def test_a_request_that_another_process_computes_waits_and_wastes_nothing(world: World) -> None:
    [record] = world.log.read(requested_topic("numbers"))
    other = LeaseTable(world.store, world.clock)
    assert other.acquire(task_key(NUMBERS, {}, {"seed": 3}))
    world.loop.step()
    assert world.told("requests_settled_total", "waiting") == 1
    assert world.wasted() == {}
    assert world.log.waiting([record.topic]) == [record]


def test_a_stage_that_an_outage_keeps_waiting_is_paused(world: World) -> None:
    def outage() -> None:
        world.loop.stop.set()
        raise StoreFullError("no room")

    world.executor.then = outage
    world.loop.run()
    assert world.told("stage_paused") == 1


def test_counters_that_an_alert_watches_are_there_before_their_first_event(world: World) -> None:
    declare_stage("numbers", [world.watch], 1, world.log, world.meter, world.clock)
    declare_entry(world.log, world.meter, world.clock)
    for stage in ("numbers", ENTRY_STAGE):
        assert world.meter.values["hagd_requests_settled_total", stage, "unserved"] == 0.0
        assert world.meter.values["hagd_dead_letters_total", stage] == 0.0
        assert world.meter.values["hagd_unreadable_records_total", stage] == 0.0
    assert world.told("lease_takeovers_total") == 0.0


def test_the_way_in_tells_how_long_its_oldest_request_waits(world: World) -> None:
    declare_entry(world.log, world.meter, world.clock)
    age = world.meter.questions["hagd_oldest_unacknowledged_seconds", ENTRY_STAGE]
    assert age() == 0.0
    submit(Request("me", "two", (PlanEntry("numbers", 1, {"seed": 5}),)), world.store, world.log, STAGES)
    world.clock.advance(13.0)
    assert age() == 13.0
