"""Spans: what was done in a run, by which process, under what, and how long it took.

A process that was not asked for traces makes no spans and loads nothing, but hands the trace context on all the same:
a trace does not break off where one process stays silent, and log lines bear its id.
"""

import logging
import os
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from typing import Final, Literal, Protocol

Kind = Literal["internal", "client", "server", "producer", "consumer"]
Attribute = str | int | float | bool
FILE_VARIABLE: Final = "HAGD_TRACE_FILE"
OTLP_VARIABLES: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_LOG: Final = logging.getLogger(__name__)


class Span(Protocol):
    """Something that is being done."""

    @property
    def traceparent(self) -> str:
        """Give the context under which parts of this are done; "" where there is no trace."""
        ...

    def set(self, **attributes: Attribute) -> None:
        """Add what became known since the span began."""
        ...

    def drop(self) -> None:
        """Do not keep this one: nothing was done."""
        ...


class Tracer(Protocol):
    """Keeps spans."""

    def start(
        self, name: str, kind: Kind, parent: str, attributes: Mapping[str, Attribute]
    ) -> AbstractContextManager[Span]:
        """Give a span that lasts as long as the context; an exception marks it as failed."""
        ...

    def flush(self, seconds: float) -> None:
        """Hand on what has ended, for at most so long."""
        ...


class SilentSpan:
    """Hands on the context of whatever it is part of."""

    def __init__(self, traceparent: str) -> None:
        self.traceparent = traceparent

    def set(self, **attributes: Attribute) -> None:
        """Ignore."""

    def drop(self) -> None:
        """Ignore."""


class SilentTracer:
    """Keeps nothing."""

    @contextmanager
    def start(self, name: str, kind: Kind, parent: str, attributes: Mapping[str, Attribute]) -> Generator[Span]:  # noqa: ARG002
        yield SilentSpan(parent)

    def flush(self, seconds: float) -> None:
        """Ignore."""


_current: ContextVar[str] = ContextVar("traceparent", default="")
# One for the process, as its log set-up: spans are opened where no bootstrap reaches, such as a worker's store.
_tracer: Tracer = SilentTracer()


def current_traceparent() -> str:
    """Give the context of what this thread or task is doing; "" where there is no trace."""
    return _current.get()


@contextmanager
def span(name: str, *, kind: Kind = "internal", parent: str = "", **attributes: Attribute) -> Generator[Span]:
    """Open a span under `parent`, else under what is being done here, else as the first of a trace."""
    with _tracer.start(name, kind, parent or _current.get(), attributes) as started:
        token = _current.set(started.traceparent)
        try:
            yield started
        finally:
            # A stream that its caller leaves is closed from elsewhere; its own context ends with it.
            with suppress(ValueError):
                _current.reset(token)


def flush(seconds: float = 1.0) -> None:
    """Hand on the spans that have ended, for a process that may be killed next."""
    _tracer.flush(seconds)


def use_tracer(tracer: Tracer) -> Callable[[], None]:
    """Keep the spans of this process by `tracer`; give what puts the one before back."""
    global _tracer
    before, _tracer = _tracer, tracer

    def restore() -> None:
        global _tracer  # noqa: PLW0603
        _tracer = before

    return restore


def configure_tracing(service: str, environment: Mapping[str, str] | None = None) -> None:
    """Keep spans as the environment says, called once by each entry point.

    HAGD_TRACE_FILE appends them to a file, one JSON object a line. OTEL_EXPORTER_OTLP_ENDPOINT and the other variables
    of OpenTelemetry send them to a collector. Without either nothing is loaded.
    """
    given = os.environ if environment is None else environment
    file, to_collector = given.get(FILE_VARIABLE, ""), any(given.get(name) for name in OTLP_VARIABLES)
    if not (file or to_collector):
        return
    try:
        # An extra, and a quarter of a second of loading.
        from hagd.telemetry.otel import OtelTracer  # noqa: PLC0415
    except ImportError as error:
        # A platform may set these variables for everything that runs on it.
        _LOG.warning("no traces are kept: %s; pip install 'hagd[telemetry]'", error)
        return
    use_tracer(OtelTracer.of_environment(service, file, to_collector=to_collector))
