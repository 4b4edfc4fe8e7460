"""What the loop of a stage tells of its work: one span and one log line a request, and its metrics.

The loop says what happens; what that means for somebody who watches is decided here. A computation whose request does
not end as `done` was in vain, whatever the reason, and its time is counted as wasted.
"""

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Literal

from hagd.artifacts.clock import Clock, SystemClock
from hagd.errors import StoreFullError, UnavailableError
from hagd.events.log import Delivery, EventLog
from hagd.events.topics import ENTRY_STAGE, LANES, requested_topic
from hagd.telemetry import metrics
from hagd.telemetry.logs import working_on
from hagd.telemetry.metrics import Meter, SilentMeter
from hagd.telemetry.traceparent import trace_id_of
from hagd.telemetry.tracing import Span, span

Settled = Literal[
    "done",
    "cached",
    "failed",
    "retried",
    "healed",
    "over",
    "cancelled",
    "interrupted",
    "waiting",
    "unserved",
    "died",
    "divided",
]
"""What became of a claimed request; `outage` and `broken` stand for requests that an error threw out of the loop."""
_FINAL: Final = frozenset({"done", "cached", "failed"})
_LOG: Final = logging.getLogger(__name__)


@dataclass
class StageWatch:
    """Watches one loop, from its thread; gauges are read by others."""

    meter: Meter = field(default_factory=SilentMeter)
    clock: Clock = field(default_factory=SystemClock)
    _outcome: str = field(default="", init=False)
    _computed: float = field(default=0.0, init=False)
    """Seconds that the request at hand has been computed for."""
    _raced: bool = field(default=False, init=False)
    _leased_at: float | None = field(default=None, init=False)
    _span: Span | None = field(default=None, init=False)

    @property
    def lease_age(self) -> float:
        """Seconds since the lease was taken that is held now; 0 when there is none."""
        return 0.0 if self._leased_at is None else self.clock.monotonic() - self._leased_at

    @contextmanager
    def request(self, stage_id: str, delivery: Delivery) -> Generator[None]:
        """Watch over a request from its claim until it is given up, by the loop or by an error."""
        envelope, began = delivery.envelope, self.clock.monotonic()
        self._outcome, self._computed, self._raced = "broken", 0.0, False
        self.meter.add(metrics.REQUESTS_CLAIMED, stage=stage_id)
        names = {"run_id": envelope.run_id, "stage_id": stage_id}
        counts = {"attempts": delivery.attempts, "generation": envelope.generation}
        with working_on(**names, trace_id=trace_id_of(envelope.trace)):
            try:
                with span("stage " + stage_id, kind="consumer", parent=envelope.trace, **names, **counts) as self._span:
                    try:
                        yield
                    except (UnavailableError, StoreFullError):
                        self._outcome = "outage"
                        raise
                    finally:
                        self._span.set(outcome=self._outcome)
            finally:
                self._span = None
                self._settle(stage_id, delivery.attempts, self.clock.monotonic() - began)

    def task(self, task_key: str) -> None:
        """Note the task that the request asks for."""
        if self._span is not None:
            self._span.set(task_key=task_key, cached=False)

    @contextmanager
    def computation(self, stage_id: str) -> Generator[None]:
        """Watch over a computation, from its lease to its manifest."""
        began = self._leased_at = self.clock.monotonic()
        self.meter.add(metrics.TASKS_IN_FLIGHT, stage=stage_id)
        try:
            yield
            self.meter.observe(metrics.STAGE_SECONDS, self.clock.monotonic() - began, stage=stage_id)
        finally:
            self._leased_at = None
            self._computed += self.clock.monotonic() - began
            self.meter.add(metrics.TASKS_IN_FLIGHT, -1.0, stage=stage_id)

    def lost_race(self) -> None:
        """Note that somebody else published the result of the same task first."""
        self._raced = True

    def took_over(self, stage_id: str) -> None:
        """Note that a lease was taken from a holder that vanished."""
        self.meter.add(metrics.LEASE_TAKEOVERS, stage=stage_id)

    def retries(self, stage_id: str, delay_seconds: float) -> None:
        """Note that the request is tried again after a delay, one of few."""
        self.settled("retried")
        self.meter.add(metrics.RETRIES, stage=stage_id, tier=f"{delay_seconds:.0f}s")

    def settled(self, outcome: Settled) -> None:
        """Say what became of the request at hand."""
        self._outcome = outcome
        if self._span is None:
            return
        if outcome == "cached":
            self._span.set(cached=True)
        if outcome == "waiting":
            # Once a second for as long as the other process computes.
            self._span.drop()

    def paused(self, stage_id: str, paused: bool) -> None:
        """Say whether the stage takes requests."""
        self.meter.set(metrics.STAGE_PAUSED, float(paused), stage=stage_id)

    def _settle(self, stage_id: str, attempts: int, seconds: float) -> None:
        outcome, meter = self._outcome, self.meter
        meter.add(metrics.REQUESTS_SETTLED, stage=stage_id, outcome=outcome)
        meter.observe(metrics.REQUEST_SECONDS, seconds, stage=stage_id, outcome=outcome)
        if outcome in _FINAL:
            meter.observe(metrics.REQUEST_ATTEMPTS, attempts, stage=stage_id)
        if outcome == "cached":
            meter.add(metrics.MANIFEST_HITS, stage=stage_id)
        if outcome == "failed":
            meter.add(metrics.DEAD_LETTERS, stage=stage_id)
        if self._computed and (self._raced or outcome != "done"):
            reason = "race" if self._raced else outcome
            meter.add(metrics.WASTED_SECONDS, self._computed, stage=stage_id, reason=reason)
        fields = {"outcome": outcome, "attempts": attempts, "seconds": round(seconds, 3)}
        _LOG.log(
            logging.DEBUG if outcome == "waiting" else logging.INFO,
            "request settled",
            extra={**fields, "computed_seconds": round(self._computed, 3)},
        )


def declare_stage(
    stage_id: str, watches: "list[StageWatch]", capacity: int, log: EventLog, meter: Meter, clock: Clock
) -> None:
    """Let a meter answer for the loops of one stage in this process, from the start and while nothing happens."""
    _declare_requests(stage_id, log, meter, clock)
    ages: Callable[[], float] = lambda: max(watch.lease_age for watch in watches)  # noqa: E731
    meter.ask(metrics.LEASE_AGE, ages, stage=stage_id)
    meter.set(metrics.TASK_CAPACITY, capacity, stage=stage_id)
    meter.set(metrics.TASKS_IN_FLIGHT, 0.0, stage=stage_id)
    meter.set(metrics.STAGE_PAUSED, 0.0, stage=stage_id)
    meter.add(metrics.LEASE_TAKEOVERS, 0.0, stage=stage_id)


def declare_entry(log: EventLog, meter: Meter, clock: Clock) -> None:
    """Let a meter answer for the way in, as if it were a stage."""
    _declare_requests(ENTRY_STAGE, log, meter, clock)


def _declare_requests(stage_id: str, log: EventLog, meter: Meter, clock: Clock) -> None:
    def oldest() -> float:
        waiting = log.waiting([requested_topic(stage_id, lane) for lane in LANES], 1)
        return max(0.0, clock.now() - waiting[0].at) if waiting and waiting[0].at else 0.0

    meter.ask(metrics.OLDEST_UNACKNOWLEDGED, oldest, stage=stage_id)
    # An alert sees a counter grow, and nothing of one that begins with its first event.
    meter.add(metrics.REQUESTS_SETTLED, 0.0, stage=stage_id, outcome="unserved")
    meter.add(metrics.DEAD_LETTERS, 0.0, stage=stage_id)
    meter.add(metrics.UNREADABLE_RECORDS, 0.0, stage=stage_id)
