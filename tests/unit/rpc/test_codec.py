"""Requests and runs are the same on both sides of the wire."""

import pytest

from hagd.api.run.v1 import run_pb2
from hagd.artifacts.reference import ArtifactRef
from hagd.errors import InvalidInputError
from hagd.execution.wire import Failure
from hagd.pipeline.request import PlanEntry, Request
from hagd.pipeline.state import Outcome, OutcomeStatus, RunState, StageState
from hagd.rpc.codec import (
    operation_of,
    plan_from_proto,
    request_from_proto,
    request_to_proto,
    run_from_proto,
    run_id_of_operation,
    run_to_proto,
)

REF = ArtifactRef("ab" * 32, 1013, "application/json")
REQUEST = Request(
    "ada",
    "first.try",
    (PlanEntry("subject", 1, {"task": {"modulus": 113}, "share": 0.5}), PlanEntry("transcoder", 7)),
    {"model": REF},
    {"command": "hagd extract"},
)


def run_with(outcome: Outcome | None) -> RunState:
    stages = (StageState("subject", "done", "cd" * 32, {"task": REF}, 2.5, 4096), StageState("transcoder", "running"))
    return RunState("ef" * 32, REQUEST, 3, stages, outcome, cancel_requested=True)


def test_a_request_comes_back_with_whole_numbers_whole() -> None:
    back = request_from_proto(request_to_proto(REQUEST), "ada")
    assert back == REQUEST
    assert type(back.plan[0].config["task"]["modulus"]) is int


@pytest.mark.parametrize(
    "outcome",
    [
        None,
        Outcome("verified", "verification"),
        Outcome("refuted", "verification"),
        Outcome("no claim", "verification"),
        Outcome("failed", "subject", Failure("accuracy-gate", "3 of 7", "train longer")),
        Outcome("cancelled", "subject"),
    ],
)
def test_a_run_comes_back_whatever_became_of_it(outcome: Outcome | None) -> None:
    assert run_from_proto(run_to_proto(run_with(outcome))) == run_with(outcome)


@pytest.mark.parametrize(
    ("status", "result"),
    [("verified", "response"), ("refuted", "response"), ("no claim", "response"), ("cancelled", "error")],
)
def test_an_operation_ends_in_a_response_or_an_error(status: OutcomeStatus, result: str) -> None:
    operation = operation_of(run_with(Outcome(status, "verification")))
    assert operation.done
    assert operation.WhichOneof("result") == result
    assert operation.name == "runs/" + "ef" * 32


def test_a_run_that_goes_on_is_an_operation_without_a_result() -> None:
    operation = operation_of(run_with(None))
    assert not operation.done
    assert operation.WhichOneof("result") is None
    run = run_pb2.Run()
    assert operation.metadata.Unpack(run)
    assert run.state == run_pb2.RUN_STATE_RUNNING


@pytest.mark.parametrize("text", ["[1]", "{", '{"lr": NaN}', '{"lr": -Infinity}', "7"])
def test_a_config_that_is_no_plain_json_object_is_refused(text: str) -> None:
    plan = run_pb2.Plan(entries=[run_pb2.PlanEntry(stage_id="subject", semantics_version=1, config_json=text)])
    with pytest.raises(InvalidInputError, match="config of stage 'subject'"):
        plan_from_proto(plan)


def test_a_reference_with_a_malformed_digest_is_refused() -> None:
    message = request_to_proto(REQUEST)
    message.inputs["model"].sha256 = "../../etc/passwd"
    with pytest.raises(InvalidInputError, match="64 lower-case hex digits"):
        request_from_proto(message, "ada")


def test_the_name_of_an_operation_is_that_of_its_run() -> None:
    assert run_id_of_operation("runs/abc") == "abc"
    with pytest.raises(InvalidInputError, match="not an operation"):
        run_id_of_operation("projects/abc")
