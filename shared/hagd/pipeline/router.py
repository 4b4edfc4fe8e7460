"""The way into the pipeline: requests are checked and handed to the first stage of their plan.

One that came by a call is in the store already. One that another system wrote to the log is written to the store here,
before it goes on; a repeated one changes nothing. Nothing that somebody may write ends the loop that calls this.
"""

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from hagd.errors import HagdError, StoreFullError, UnavailableError
from hagd.events.envelope import SCHEMA_VERSION, Envelope
from hagd.events.log import Delivery, EventLog
from hagd.events.topics import ENTRY_STAGE, LANES, requested_topic
from hagd.execution.wire import Failure, failure_of
from hagd.pipeline.contract import StageSpec
from hagd.pipeline.dead_letters import bury, refuse
from hagd.pipeline.intake import holds_request, request_of
from hagd.pipeline.quotas import Quota
from hagd.pipeline.request import PlanEntry
from hagd.pipeline.runs import RunStore
from hagd.pipeline.stages import check_plan
from hagd.pipeline.state import Outcome
from hagd.pipeline.submission import CLAIM_SECONDS, create_run, end_run, opening_event
from hagd.telemetry.logs import working_on
from hagd.telemetry.metrics import DEAD_LETTERS, REQUESTS_SETTLED, Meter, SilentMeter
from hagd.telemetry.traceparent import trace_id_of
from hagd.telemetry.tracing import span

OUTAGE_SECONDS: Final = 1.0
"""Until log and store are asked again."""
WAIT_SECONDS: Final = 10.0
"""Until a request that is not for now is looked at again; so long that it does not stand in the way of others."""
_IDLE_SECONDS: Final = 0.05
_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True)
class RequestRouter:
    """Reads requests and hands each to the first stage of its plan."""

    log: EventLog
    runs: RunStore
    stages: Mapping[str, StageSpec] = field(default_factory=dict[str, StageSpec])
    meter: Meter = field(default_factory=SilentMeter)
    quota: Quota | None = None
    """How many runs a principal of another system may have at once; what is beyond waits."""

    def run(self, stop: threading.Event) -> None:
        """Handle requests until `stop`; an outage of log or store is waited out."""
        while not stop.is_set():
            try:
                if not self.step():
                    stop.wait(_IDLE_SECONDS)
            except (UnavailableError, StoreFullError) as error:
                _LOG.warning("requests wait: %s", error.message)
                stop.wait(OUTAGE_SECONDS)

    def step(self) -> bool:
        """Handle one request; False when there is none.

        Raises:
            StoreFullError, UnavailableError: the store or the log; the request is kept for later.
        """
        delivery = self.log.claim([requested_topic(ENTRY_STAGE, lane) for lane in LANES], CLAIM_SECONDS)
        if delivery is None:
            return False
        run_id, trace = delivery.envelope.run_id, delivery.envelope.trace
        with (
            working_on(run_id=run_id, stage_id=ENTRY_STAGE, trace_id=trace_id_of(trace)),
            span("route", kind="consumer", parent=trace, run_id=run_id),
        ):
            self._route(delivery)
        return True

    def _route(self, delivery: Delivery) -> None:
        envelope = delivery.envelope
        try:
            if self._is_newer(envelope):
                _LOG.warning("run %s waits: it asks for a newer release than this", envelope.run_id)
                self.meter.add(REQUESTS_SETTLED, stage=ENTRY_STAGE, outcome="unserved")
                self.log.release(delivery, WAIT_SECONDS)
                return
            opening = self._opening(envelope)
        except Exception as error:
            # Also what a stage raises over a config that it did not expect: it is the fault of one request.
            if isinstance(error, StoreFullError | UnavailableError):
                self.log.release(delivery, OUTAGE_SECONDS)
                return
            if isinstance(error, HagdError) and error.transient:
                self.log.release(delivery, WAIT_SECONDS)
                return
            self._give_up(delivery, failure_of(error))
        else:
            self.log.append(requested_topic(opening.plan[0].stage_id, opening.lane), opening)
        self.log.ack(delivery)

    def _opening(self, envelope: Envelope) -> Envelope:
        """Give the event for the first stage, once the store has the request."""
        request = request_of(envelope)
        if request is not None:
            run_id = create_run(request, self.runs, self.stages, self.quota)
            opening = opening_event(run_id, self.runs.generation(run_id), request)
        else:
            # By what the store holds: the event may only say which run to start.
            request = self.runs.request(envelope.run_id)
            check_plan(request, self.stages)
            healings = envelope.data.get("healings")
            times = healings if isinstance(healings, int) else 0
            opening = opening_event(envelope.run_id, envelope.generation, request, times)
        return replace(opening, traceparent=envelope.traceparent or opening.traceparent)

    def _give_up(self, delivery: Delivery, failure: Failure) -> None:
        envelope = delivery.envelope
        self.meter.add(DEAD_LETTERS, stage=ENTRY_STAGE)
        if holds_request(envelope) or not self.runs.exists(envelope.run_id):
            refuse(envelope, ENTRY_STAGE, failure, delivery.attempts, self.log)
            return
        bury(envelope, ENTRY_STAGE, failure, delivery.attempts, self.log)
        end_run(envelope, Outcome("failed", envelope.plan[0].stage_id, failure), self.runs, self.log)

    def _is_newer(self, envelope: Envelope) -> bool:
        """Say whether a later release will understand the event, as while one after another is replaced."""
        return envelope.schema_version > SCHEMA_VERSION or any(self._asks_for_newer(entry) for entry in envelope.plan)

    def _asks_for_newer(self, entry: PlanEntry) -> bool:
        spec = self.stages.get(entry.stage_id)
        return spec is not None and entry.semantics_version > spec.semantics_version
