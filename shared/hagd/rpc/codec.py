"""Between the proto messages of runs and the plain values of `hagd.pipeline`. The only place that knows both."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

import rfc8785
from google.longrunning import operations_pb2
from google.protobuf.message import DecodeError

from hagd.api.artifact.v1 import artifact_pb2
from hagd.api.extraction.v1 import extraction_pb2
from hagd.api.run.v1 import run_pb2
from hagd.artifacts.reference import ArtifactRef
from hagd.errors import CancelledError, InvalidInputError
from hagd.events.topics import Lane
from hagd.execution.wire import failure_of
from hagd.pipeline.request import PlanEntry, Request
from hagd.pipeline.state import Outcome, OutcomeStatus, RunState, StageState, StageStatus
from hagd.rpc.status import from_status, to_status

OPERATION_PREFIX: Final = "runs/"
_LANES: Final[dict[run_pb2.Lane, Lane]] = {
    run_pb2.LANE_UNSPECIFIED: "interactive",
    run_pb2.LANE_INTERACTIVE: "interactive",
    run_pb2.LANE_BATCH: "batch",
}
_STATES: Final[dict[OutcomeStatus, run_pb2.RunState]] = {
    "verified": run_pb2.RUN_STATE_VERIFIED,
    "refuted": run_pb2.RUN_STATE_REFUTED,
    "no claim": run_pb2.RUN_STATE_NO_CLAIM,
    "failed": run_pb2.RUN_STATE_FAILED,
    "cancelled": run_pb2.RUN_STATE_CANCELLED,
}
_OUTCOMES: Final[dict[run_pb2.RunState, OutcomeStatus]] = {state: status for status, state in _STATES.items()}
_STAGES: Final[dict[StageStatus, run_pb2.StageStatus]] = {
    "pending": run_pb2.STAGE_STATUS_PENDING,
    "running": run_pb2.STAGE_STATUS_RUNNING,
    "done": run_pb2.STAGE_STATUS_DONE,
    "cached": run_pb2.STAGE_STATUS_CACHED,
    "stopped": run_pb2.STAGE_STATUS_STOPPED,
}
_STAGE_STATUSES: Final[dict[run_pb2.StageStatus, StageStatus]] = {state: status for status, state in _STAGES.items()}


def request_to_proto(request: Request) -> extraction_pb2.SubmitRequest:
    """Give the wire form of a request; the principal is the server's to say."""
    return extraction_pb2.SubmitRequest(
        request_id=request.request_id,
        plan=plan_to_proto(request.plan),
        inputs=refs_to_proto(request.inputs),
        labels=dict(request.labels),
        lane=_lane_to_proto(request.lane),
    )


def read_request(data: bytes, principal: str) -> Request:
    """Read an encoded SubmitRequest that `principal` sent; errors as of `request_from_proto`."""
    try:
        message = extraction_pb2.SubmitRequest.FromString(data)
    except DecodeError as error:
        raise InvalidInputError(f"not a SubmitRequest: {error}", "encode it as protobuf") from error
    return request_from_proto(message, principal)


def request_from_proto(message: extraction_pb2.SubmitRequest, principal: str) -> Request:
    """Read a request that `principal` sent.

    Raises:
        InvalidInputError: the plan is empty, a config is no JSON object, a name or digest is malformed.
    """
    return Request(
        principal,
        message.request_id,
        plan_from_proto(message.plan),
        refs_from_proto(message.inputs),
        dict(message.labels),
        _lane_from_proto(message.lane),
    )


def _lane_to_proto(lane: Lane) -> run_pb2.Lane:
    return run_pb2.LANE_BATCH if lane == "batch" else run_pb2.LANE_UNSPECIFIED


def _lane_from_proto(lane: run_pb2.Lane) -> Lane:
    found = _LANES.get(lane)
    if found is None:
        raise InvalidInputError(f"there is no lane {lane}", "leave it out, or name one of the proto file")
    return found


def plan_to_proto(plan: Iterable[PlanEntry]) -> run_pb2.Plan:
    """Give the wire form of a plan."""
    entries = [
        run_pb2.PlanEntry(
            stage_id=entry.stage_id,
            semantics_version=entry.semantics_version,
            config_json=json.dumps(dict(entry.config), sort_keys=True, allow_nan=False),
        )
        for entry in plan
    ]
    return run_pb2.Plan(entries=entries)


def plan_from_proto(plan: run_pb2.Plan) -> tuple[PlanEntry, ...]:
    """Read a plan.

    Raises:
        InvalidInputError: a config is no JSON object, or holds NaN or infinity.
    """
    return tuple(
        PlanEntry(entry.stage_id, entry.semantics_version, _config_of(entry.stage_id, entry.config_json))
        for entry in plan.entries
    )


def _config_of(stage_id: str, text: str) -> dict[str, Any]:
    def refuse(token: str) -> float:
        raise InvalidInputError(f"the config of stage {stage_id!r} holds {token}", "give a finite number")

    try:
        value = json.loads(text or "{}", parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"the config of stage {stage_id!r} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidInputError(f"the config of stage {stage_id!r} is no JSON object", 'write it like {"seed": 0}')
    try:
        rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeError, RecursionError) as error:
        hint = "numbers are finite and whole ones below 2^53, text is Unicode"
        raise InvalidInputError(f"the config of stage {stage_id!r} cannot be kept: {error}", hint) from error
    return value


def refs_to_proto(refs: Mapping[str, ArtifactRef]) -> dict[str, artifact_pb2.ArtifactRef]:
    """Give the wire form of `{role: reference}`."""
    return {
        role: artifact_pb2.ArtifactRef(sha256=ref.sha256, bytes=ref.bytes, media_type=ref.media_type)
        for role, ref in refs.items()
    }


def refs_from_proto(refs: Mapping[str, artifact_pb2.ArtifactRef]) -> dict[str, ArtifactRef]:
    """Read `{role: reference}`, every digest checked.

    Raises:
        InvalidInputError: a reference is malformed.
    """
    return {
        role: ArtifactRef.from_json({"sha256": ref.sha256, "bytes": ref.bytes, "media_type": ref.media_type})
        for role, ref in refs.items()
    }


def run_to_proto(run: RunState) -> run_pb2.Run:
    """Give the wire form of a run."""
    message = run_pb2.Run(
        run_id=run.run_id,
        principal=run.request.principal,
        request_id=run.request.request_id,
        state=run_pb2.RUN_STATE_RUNNING if run.outcome is None else _STATES[run.outcome.status],
        plan=plan_to_proto(run.request.plan),
        inputs=refs_to_proto(run.request.inputs),
        labels=dict(run.request.labels),
        stages=[_stage_to_proto(stage) for stage in run.stages],
        generation=run.generation,
        cancel_requested=run.cancel_requested,
        ended_by="" if run.outcome is None else run.outcome.stage_id,
        lane=_lane_to_proto(run.request.lane),
    )
    error = run.error
    if error is not None:
        message.error.CopyFrom(to_status(error))
    elif run.outcome is not None and run.outcome.status == "cancelled":
        message.error.CopyFrom(to_status(CancelledError(f"run {run.run_id[:12]} was cancelled")))
    return message


def run_from_proto(message: run_pb2.Run) -> RunState:
    """Read a run."""
    request = Request(
        message.principal,
        message.request_id,
        plan_from_proto(message.plan),
        refs_from_proto(message.inputs),
        dict(message.labels),
        _lane_from_proto(message.lane),
    )
    stages = tuple(_stage_from_proto(stage) for stage in message.stages)
    return RunState(message.run_id, request, message.generation, stages, _outcome_of(message), message.cancel_requested)


def _outcome_of(message: run_pb2.Run) -> Outcome | None:
    status = _OUTCOMES.get(message.state)
    if status is None:
        return None
    failed = status == "failed" and message.HasField("error")
    return Outcome(status, message.ended_by, failure_of(from_status(message.error)) if failed else None)


def _stage_to_proto(stage: StageState) -> run_pb2.Stage:
    return run_pb2.Stage(
        stage_id=stage.stage_id,
        status=_STAGES[stage.status],
        task_key=stage.task_key,
        outputs=refs_to_proto(stage.outputs),
        seconds=stage.seconds,
        peak_rss_bytes=stage.peak_rss_bytes,
    )


def _stage_from_proto(message: run_pb2.Stage) -> StageState:
    return StageState(
        message.stage_id,
        _STAGE_STATUSES.get(message.status, "pending"),
        message.task_key,
        refs_from_proto(message.outputs),
        message.seconds,
        message.peak_rss_bytes,
    )


def operation_of(run: RunState) -> operations_pb2.Operation:
    """Give a run as a long-running operation: refuted and no claim are results, failed and cancelled are errors."""
    message = run_to_proto(run)
    operation = operations_pb2.Operation(name=OPERATION_PREFIX + run.run_id, done=run.outcome is not None)
    operation.metadata.Pack(message)
    if run.outcome is None:
        return operation
    if message.HasField("error"):
        operation.error.CopyFrom(message.error)
    else:
        operation.response.Pack(message)
    return operation


def run_id_of_operation(name: str) -> str:
    """Read `runs/<run_id>`.

    Raises:
        InvalidInputError: the name is something else.
    """
    if not name.startswith(OPERATION_PREFIX):
        raise InvalidInputError(f"{name!r} is not an operation of this service", "names look like 'runs/<run id>'")
    return name.removeprefix(OPERATION_PREFIX)
