"""The meter over prometheus-client, and the port on which Prometheus reads it: GET /metrics, loopback unless told."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from hagd.errors import HagdError, UnavailableError, UsageError
from hagd.telemetry.metrics import METRICS, Metric, MetricKind

LOOPBACK: Final = "127.0.0.1"
_CLASSES: Final[Mapping[MetricKind, Any]] = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}


class PrometheusMeter:
    """A `Meter` with a registry of its own, so that several may live in one process."""

    def __init__(self) -> None:
        """Declare every metric; those that were never reported show no value."""
        self.registry = CollectorRegistry()
        self._collectors = {metric: _collector(metric, self.registry) for metric in METRICS}

    def add(self, metric: Metric, amount: float = 1.0, **labels: str) -> None:
        self._at(metric, labels).inc(amount)

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        self._at(metric, labels).observe(value)

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        self._at(metric, labels).set(value)

    def ask(self, metric: Metric, question: Callable[[], float], **labels: str) -> None:
        def answer() -> float:
            try:
                return question()
            except HagdError:
                # The others are worth reading in an outage all the more.
                return math.nan

        self._at(metric, labels).set_function(answer)

    def serve(self, listen: str) -> "MetricsServer":
        """Answer GET /metrics at `host:port`, or at a port of loopback.

        Raises:
            UsageError: `listen` is no such address.
            UnavailableError: it cannot be bound.
        """
        host, _, port = listen.rpartition(":")
        if not port.isdigit():
            raise UsageError(f"cannot read the address of metrics {listen!r}", "write it like 127.0.0.1:9464, or 9464")
        host = host.strip("[]") or LOOPBACK
        try:
            server, thread = start_http_server(int(port), host, self.registry)
        except OSError as error:
            hint = "is another service running there? choose another --metrics"
            raise UnavailableError(f"cannot listen for metrics on {listen}: {error}", hint) from error
        return MetricsServer(f"{host}:{server.server_port}", server, thread)

    def _at(self, metric: Metric, labels: Mapping[str, str]) -> Any:
        return self._collectors[metric].labels(**labels)


class MetricsServer:
    """The port that Prometheus reads."""

    def __init__(self, address: str, server: Any, thread: Any) -> None:
        self.address = address
        """`host:port`, the chosen port included."""
        self._server, self._thread = server, thread

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _collector(metric: Metric, registry: CollectorRegistry) -> Any:
    options: dict[str, Any] = {"buckets": metric.buckets} if metric.kind == "histogram" else {}
    # The library adds `_total` to the name of a counter by itself.
    name = metric.name.removesuffix("_total") if metric.kind == "counter" else metric.name
    return _CLASSES[metric.kind](name, metric.help, metric.labels, registry=registry, **options)
