"""Run state: written once, readable by anybody, never taken back."""

from dataclasses import replace

import pytest

from hagd.artifacts.reference import ArtifactRef
from hagd.errors import AccuracyGateError, CancelledError, CorruptArtifactError, RunConflictError, UnknownNameError
from hagd.execution.wire import failure_of
from hagd.pipeline.request import PlanEntry, Request
from hagd.pipeline.runs import RunStore
from hagd.pipeline.state import Outcome, StageState
from hagd.testing import MemoryStore

REQUEST = Request("me", "first", (PlanEntry("a", 1), PlanEntry("b", 1)))
REF = ArtifactRef("0" * 64, 7, "x/y")


@pytest.fixture
def runs() -> RunStore:
    return RunStore(MemoryStore())


def test_a_new_run_has_all_stages_pending_and_no_outcome(runs: RunStore) -> None:
    run_id = runs.create(REQUEST, "identity")
    state = runs.get(run_id)
    assert (state.request, state.generation, state.outcome, state.cancel_requested) == (REQUEST, 0, None, False)
    assert [stage.status for stage in state.stages] == ["pending", "pending"]
    assert runs.list() == [run_id]
    assert runs.find(run_id[:8]) == run_id


def test_the_same_request_is_the_same_run_and_another_of_that_name_is_a_conflict(runs: RunStore) -> None:
    run_id = runs.create(REQUEST, "identity")
    relabelled = replace(REQUEST, labels={"note": "new"})
    assert runs.create(relabelled, "identity") == run_id
    assert runs.request(run_id) == relabelled
    with pytest.raises(RunConflictError, match=r"a run with other settings is there already, .* 'first'"):
        runs.create(REQUEST, "another identity")


def test_stages_go_from_pending_over_running_to_done_and_the_first_result_stays(runs: RunStore) -> None:
    run_id = runs.create(REQUEST, "identity")
    runs.start_stage(run_id, 0, 0, StageState("a", "running", "key"))
    assert runs.stages(run_id)[0] == StageState("a", "running", "key")
    done = StageState("a", "done", "key", {"out": REF}, 1.5, 4096)
    runs.finish_stage(run_id, 0, 0, done)
    runs.finish_stage(run_id, 0, 0, replace(done, seconds=9.0))
    assert runs.stages(run_id) == (done, StageState("b", "pending"))
    assert runs.get(run_id).outputs == {"out": REF}


def test_a_stage_at_work_is_stopped_once_its_run_has_ended(runs: RunStore) -> None:
    run_id = runs.create(REQUEST, "identity")
    runs.start_stage(run_id, 0, 0, StageState("a", "running", "key"))
    assert [stage.status for stage in runs.get(run_id).stages] == ["running", "pending"]
    runs.finish(
        run_id, 0, Outcome("failed", "a", failure_of(AccuracyGateError("low", "train longer"))), REQUEST.principal
    )
    assert [stage.status for stage in runs.get(run_id).stages] == ["stopped", "pending"]


def test_the_first_outcome_stands(runs: RunStore) -> None:
    run_id = runs.create(REQUEST, "identity")
    assert runs.finish(run_id, 0, Outcome("verified", "b"), REQUEST.principal) == Outcome("verified", "b")
    assert runs.finish(run_id, 0, Outcome("cancelled"), REQUEST.principal) == Outcome("verified", "b")


def test_opening_again_starts_clean_and_keeps_what_was(runs: RunStore) -> None:
    run_id = runs.create(REQUEST, "identity")
    runs.cancel(run_id)
    runs.finish(run_id, 0, Outcome("cancelled"), REQUEST.principal)
    assert runs.reopen(run_id, after=0) == runs.reopen(run_id, after=0) == 1
    state = runs.get(run_id)
    assert (state.generation, state.outcome, state.cancel_requested) == (1, None, False)
    assert runs.outcome(run_id, 0) == Outcome("cancelled")


def test_a_failed_run_raises_the_error_of_its_stage(runs: RunStore) -> None:
    run_id = runs.create(REQUEST, "identity")
    runs.get(run_id).raise_for_failure()
    runs.finish(
        run_id, 0, Outcome("failed", "a", failure_of(AccuracyGateError("3 of 7", "train longer"))), REQUEST.principal
    )
    with pytest.raises(AccuracyGateError, match="3 of 7"):
        runs.get(run_id).raise_for_failure()
    runs.reopen(run_id, after=0)
    runs.finish(run_id, 1, Outcome("cancelled"), REQUEST.principal)
    with pytest.raises(CancelledError):
        runs.get(run_id).raise_for_failure()


def test_runs_that_are_not_there_are_named(runs: RunStore) -> None:
    for call in (runs.get, runs.cancel, runs.request):
        with pytest.raises(UnknownNameError, match="there is no run 'nope'"):
            call("nope")
    with pytest.raises(UnknownNameError, match="0 runs have an id that starts with 'x'"):
        runs.find("x")


def test_a_damaged_request_is_refused(runs: RunStore) -> None:
    run_id = runs.create(REQUEST, "identity")
    assert isinstance(runs.store, MemoryStore)
    for data in (b"{", b"[]"):
        runs.store.objects[f"runs/{run_id}/request"] = data
        with pytest.raises(CorruptArtifactError):
            runs.get(run_id)


def test_a_deleted_run_is_forgotten(runs: RunStore) -> None:
    run_id = runs.create(REQUEST, "identity")
    runs.delete(run_id)
    assert runs.list() == []


def test_a_page_of_runs_is_read_without_the_others() -> None:
    runs = RunStore(MemoryStore())
    ids = sorted(runs.create(replace(REQUEST, request_id=f"r{number}"), "identity") for number in range(7))
    runs.store.put_if_absent(f"runs/{ids[2][:-1]}x/g0000/outcome", b"{}")  # of a run that nobody asked for here
    assert [*runs.page("", 3), *runs.page(ids[2], 3), *runs.page(ids[5], 3)] == ids
    assert runs.page(ids[6], 3) == ()
