"""How a request becomes events: the request object first, then the event, so that an answer means it will be done."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from hagd.artifacts.store import ArtifactStore
from hagd.errors import InvalidInputError
from hagd.events.envelope import MAX_REQUEST_BYTES, Envelope, event_id
from hagd.events.log import EventLog
from hagd.events.topics import ENTRY_STAGE, RUN_CANCELLED, RUN_FAILED, requested_topic
from hagd.pipeline.contract import StageSpec
from hagd.pipeline.quotas import Quota
from hagd.pipeline.request import Request, run_id_of
from hagd.pipeline.runs import RunStore
from hagd.pipeline.stages import identity_of
from hagd.pipeline.state import Outcome, RunState
from hagd.telemetry.tracing import current_traceparent, span

CLAIM_SECONDS = 60.0
_ENDS: Final[Mapping[str, str]] = {"failed": RUN_FAILED, "cancelled": RUN_CANCELLED}


def submit(
    request: Request,
    store: ArtifactStore,
    log: EventLog,
    stages: Mapping[str, StageSpec] | None = None,
    quota: Quota | None = None,
) -> str:
    """Write the request, then its event; give the run id. Submitting the same request again changes nothing.

    Raises:
        UnknownNameError, UsageError: the plan cannot be run here, see `check_plan`.
        RunConflictError: the request id names a run with other settings.
        QuotaExceededError: the principal has as many unfinished runs as `quota` allows.
        StoreFullError, UnavailableError: the store or the log.
    """
    runs = RunStore(store)
    with span("submit", kind="producer") as submitting:
        run_id = create_run(request, runs, stages, quota)
        submitting.set(run_id=run_id)
        announce(run_id, runs.generation(run_id), request, log)
    return run_id


def create_run(
    request: Request, runs: RunStore, stages: Mapping[str, StageSpec] | None = None, quota: Quota | None = None
) -> str:
    """Write a request that can be run here; give its run id. Errors as of `submit`."""
    run_id = run_id_of(request.principal, request.request_id)
    if quota is not None and not runs.exists(run_id):
        quota.check(request.principal, runs.active, lambda other: runs.outcome(other) is not None)
    identity = identity_of(request, stages)
    size = len(opening_event(run_id, 0, request).carried().encode())
    if size > MAX_REQUEST_BYTES:
        raise InvalidInputError(
            f"the request has {size} bytes, at most {MAX_REQUEST_BYTES} are taken", "give large inputs as artifacts"
        )
    return runs.create(request, identity)


def announce(run_id: str, generation: int, request: Request, log: EventLog, healings: int = 0) -> None:
    """Append the event that starts a generation of a run; once per generation, however often it is called."""
    log.append(requested_topic(ENTRY_STAGE, request.lane), opening_event(run_id, generation, request, healings))


def open_again(state: RunState, runs: RunStore, log: EventLog) -> RunState:
    """Start the next generation of a run that has ended; give the run as it then is."""
    generation = runs.reopen(state.run_id, after=state.generation)
    announce(state.run_id, generation, state.request, log)
    return runs.get(state.run_id)


def opening_event(run_id: str, generation: int, request: Request, healings: int = 0) -> Envelope:
    """Give the event that starts a generation of a run."""
    identity, data = event_id(run_id, ENTRY_STAGE, "", generation), {"healings": healings}
    lane, trace = request.lane, current_traceparent()
    plan, inputs = request.plan, request.inputs
    return Envelope(
        identity, run_id, request.principal, generation, 0, plan, inputs, data, lane=lane, traceparent=trace
    )


def end_run(envelope: Envelope, outcome: Outcome, runs: RunStore, log: EventLog) -> None:
    """Write the outcome of a run, unless it has one, then announce it; of a run that nobody asked for there is none."""
    if not runs.exists(envelope.run_id):
        return
    announce_end(envelope, runs.finish(envelope.run_id, envelope.generation, outcome, envelope.principal), log)


def announce_end(envelope: Envelope, outcome: Outcome, log: EventLog) -> None:
    """Append the event that tells of a failure or a cancel; once per generation, however often it is called.

    Any other outcome is told by the fact of its last stage, which is appended before the outcome is written.
    """
    topic = _ENDS.get(outcome.status)
    if topic is not None:
        identity = event_id(envelope.run_id, topic, "", envelope.generation)
        log.append(topic, replace(envelope, id=identity, data=outcome.to_json(), part="").shortened())
