"""Every metric of the runtime, declared once, and the port through which code reports them.

Labels are bounded: stages, outcomes, tiers, methods, kinds of error; never a run, a task or a caller. The reference
page, the dashboard and the alerts are checked against this file, and this file against what the code reports.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, Protocol

MetricKind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True)
class Metric:
    """One metric."""

    name: str
    """As Prometheus shows it; of a histogram without `_bucket`, `_sum` and `_count`."""
    kind: MetricKind
    unit: str
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()
    """Upper ends, for a histogram."""


_SECONDS: Final = (0.05, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0, 28800.0)

REQUESTS_CLAIMED: Final = Metric(
    "hagd_requests_claimed_total", "counter", "requests", ("stage",), "Requests taken from the log, again included."
)
REQUESTS_SETTLED: Final = Metric(
    "hagd_requests_settled_total",
    "counter",
    "requests",
    ("stage", "outcome"),
    "What became of claimed requests: done, cached, divided (into shards), failed, retried, healed, over, cancelled, "
    "interrupted, waiting (another process computes it), unserved (a newer schema or another version), died, outage, "
    "broken.",
)
REQUEST_ATTEMPTS: Final = Metric(
    "hagd_request_attempts",
    "histogram",
    "attempts",
    ("stage",),
    "How often a request had been claimed when it was done, cached or failed.",
    (1.0, 2.0, 3.0, 5.0, 8.0, 13.0),
)
REQUEST_SECONDS: Final = Metric(
    "hagd_request_seconds",
    "histogram",
    "seconds",
    ("stage", "outcome"),
    "From the claim of a request to its end here.",
    _SECONDS,
)
OLDEST_UNACKNOWLEDGED: Final = Metric(
    "hagd_oldest_unacknowledged_seconds",
    "gauge",
    "seconds",
    ("stage",),
    "Age of the oldest request that is not worked off, as far as this process sees the log; 0 when there is none.",
)
MANIFEST_HITS: Final = Metric(
    "hagd_manifest_hits_total", "counter", "requests", ("stage",), "Requests whose result was there already."
)
STAGE_SECONDS: Final = Metric(
    "hagd_stage_seconds",
    "histogram",
    "seconds",
    ("stage",),
    "What a computation took, from the lease to the manifest.",
    _SECONDS,
)
WASTED_SECONDS: Final = Metric(
    "hagd_wasted_compute_seconds_total",
    "counter",
    "seconds",
    ("stage", "reason"),
    "Time of computations whose result nobody got, by the outcome of their request, or `race`: somebody was faster.",
)
TASKS_IN_FLIGHT: Final = Metric(
    "hagd_tasks_in_flight", "gauge", "tasks", ("stage",), "Tasks that are computed for this process now."
)
TASK_CAPACITY: Final = Metric(
    "hagd_task_capacity", "gauge", "tasks", ("stage",), "Tasks that this process computes at a time, at most."
)
STAGE_PAUSED: Final = Metric(
    "hagd_stage_paused",
    "gauge",
    "1",
    ("stage",),
    "1 while a stage takes no requests: an outage, or somebody paused it.",
)
LEASE_AGE: Final = Metric(
    "hagd_lease_age_seconds", "gauge", "seconds", ("stage",), "Age of the oldest lease that this process holds; or 0."
)
LEASE_TAKEOVERS: Final = Metric(
    "hagd_lease_takeovers_total", "counter", "leases", ("stage",), "Leases taken over from a holder that vanished."
)
DEAD_LETTERS: Final = Metric(
    "hagd_dead_letters_total", "counter", "requests", ("stage",), "Requests given up and kept as dead letters."
)
UNREADABLE_RECORDS: Final = Metric(
    "hagd_unreadable_records_total",
    "counter",
    "records",
    ("stage",),
    "Records put away because they are no event or are refused, by the stage to whose topic they were sent.",
)
RETRIES: Final = Metric(
    "hagd_retries_total", "counter", "requests", ("stage", "tier"), "Requests put back to be tried again, by the delay."
)
STORE_REQUESTS: Final = Metric(
    "hagd_store_requests_total",
    "counter",
    "calls",
    ("operation",),
    "Calls of the artifact store by this process, not by its workers.",
)
STORE_ERRORS: Final = Metric(
    "hagd_store_errors_total", "counter", "calls", ("operation", "kind"), "Calls of the store that failed, by error."
)
STORE_BYTES: Final = Metric(
    "hagd_store_bytes_total",
    "counter",
    "bytes",
    ("operation",),
    "Bytes of blobs that this process put and got, not its workers.",
)
STORE_SECONDS: Final = Metric(
    "hagd_store_seconds",
    "histogram",
    "seconds",
    ("operation",),
    "What a call of the store took.",
    (0.001, 0.005, 0.025, 0.1, 0.5, 2.0, 10.0, 60.0),
)
GRPC_REQUESTS: Final = Metric(
    "hagd_grpc_requests_total", "counter", "calls", ("method", "code"), "Calls that were answered, by status code."
)
GRPC_SECONDS: Final = Metric(
    "hagd_grpc_seconds",
    "histogram",
    "seconds",
    ("method",),
    "What a call took, streams included.",
    (0.005, 0.025, 0.1, 0.5, 2.0, 10.0, 60.0, 600.0),
)

METRICS: Final = tuple(value for value in list(globals().values()) if isinstance(value, Metric))


class Meter(Protocol):
    """Keeps metrics. Every method is cheap and safe to call from several threads."""

    def add(self, metric: Metric, amount: float = 1.0, **labels: str) -> None:
        """Let a counter, or a gauge, grow by `amount`."""
        ...

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """Count a value of a histogram."""
        ...

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Set a gauge."""
        ...

    def ask(self, metric: Metric, question: Callable[[], float], **labels: str) -> None:
        """Give a gauge the value that `question` has when somebody looks."""
        ...


class SilentMeter:
    """Keeps nothing: for processes that nobody asks."""

    def add(self, metric: Metric, amount: float = 1.0, **labels: str) -> None:
        """Ignore."""

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """Ignore."""

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Ignore."""

    def ask(self, metric: Metric, question: Callable[[], float], **labels: str) -> None:
        """Ignore."""
