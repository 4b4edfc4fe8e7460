"""The way into the pipeline: requests are checked and handed to the first stage of their plan."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from hagd.errors import HagdError
from hagd.events.log import Delivery, EventLog
from hagd.events.topics import ENTRY_STAGE, LANES, requested_topic
from hagd.execution.wire import failure_of
from hagd.pipeline.contract import StageSpec
from hagd.pipeline.dead_letters import bury
from hagd.pipeline.runs import RunStore
from hagd.pipeline.stages import check_plan
from hagd.pipeline.state import Outcome
from hagd.pipeline.submission import CLAIM_SECONDS, end_run
from hagd.telemetry.logs import working_on
from hagd.telemetry.metrics import DEAD_LETTERS, Meter, SilentMeter
from hagd.telemetry.traceparent import trace_id_of
from hagd.telemetry.tracing import span


@dataclass(frozen=True)
class RequestRouter:
    """Reads requests and hands each to the first stage of its plan."""

    log: EventLog
    runs: RunStore
    stages: Mapping[str, StageSpec] = field(default_factory=dict[str, StageSpec])
    meter: Meter = field(default_factory=SilentMeter)

    def step(self) -> bool:
        """Handle one request; False when there is none."""
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
            check_plan(self.runs.request(envelope.run_id), self.stages)
        except HagdError as error:
            if error.transient:
                self.log.release(delivery, 1.0)
                return
            failure = failure_of(error)
            bury(envelope, ENTRY_STAGE, failure, delivery.attempts, self.log)
            self.meter.add(DEAD_LETTERS, stage=ENTRY_STAGE)
            end_run(envelope, Outcome("failed", envelope.plan[0].stage_id, failure), self.runs, self.log)
        else:
            self.log.append(requested_topic(envelope.plan[0].stage_id, envelope.lane), envelope)
        self.log.ack(delivery)
