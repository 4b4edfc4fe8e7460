"""The tracer over OpenTelemetry: to a collector by OTLP, or to a file with one JSON object a line.

Several processes append to one file: each span is written by a single call, which a local file system keeps whole.
"""

import json
import os
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from hagd.errors import HagdError
from hagd.telemetry.traceparent import HEADER
from hagd.telemetry.tracing import Attribute, Kind

_BATCH_MS: Final = 1000
"""A worker may be killed as soon as it has answered, so spans wait no longer than this."""
_KINDS: Final[Mapping[Kind, SpanKind]] = {
    "internal": SpanKind.INTERNAL,
    "client": SpanKind.CLIENT,
    "server": SpanKind.SERVER,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
}
_PROPAGATOR: Final = TraceContextTextMapPropagator()


class OtelSpan:
    """A span of OpenTelemetry as the port has it."""

    def __init__(self, span: Span) -> None:
        self._span, self.kept = span, True
        context = span.get_span_context()
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def set(self, **attributes: Attribute) -> None:
        self._span.set_attributes(attributes)

    def drop(self) -> None:
        self.kept = False


class OtelTracer:
    """A `Tracer` over OpenTelemetry."""

    def __init__(self, service: str, processors: Sequence[SpanProcessor]) -> None:
        """Keep the spans of this process under the name of a service."""
        self._provider = TracerProvider(resource=Resource.create({"service.name": service}))
        for processor in processors:
            self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("hagd")

    @staticmethod
    def of_environment(service: str, file: str, *, to_collector: bool) -> "OtelTracer":
        """Give the tracer that writes to a file, to the collector that the variables of OpenTelemetry name, or both."""
        processors: list[SpanProcessor] = [SimpleSpanProcessor(FileSpanExporter(file))] if file else []
        if to_collector:
            processors.append(BatchSpanProcessor(OTLPSpanExporter(), schedule_delay_millis=_BATCH_MS))
        return OtelTracer(service, processors)

    @contextmanager
    def start(self, name: str, kind: Kind, parent: str, attributes: Mapping[str, Attribute]) -> Generator[OtelSpan]:
        # Never the context of OpenTelemetry itself: what is part of what is said by the caller alone.
        context = _PROPAGATOR.extract({HEADER: parent}, Context()) if parent else Context()
        span = self._tracer.start_span(name, context, _KINDS[kind], dict(attributes))
        started = OtelSpan(span)
        try:
            yield started
        except BaseException as error:
            # Messages of the tree are made to be read; those of others may hold anything.
            message = error.message if isinstance(error, HagdError) else ""
            span.set_attribute("error.type", getattr(error, "kind", type(error).__name__))
            span.set_status(StatusCode.ERROR, message)
            raise
        finally:
            # A span that never ends is never exported.
            if started.kept:
                span.end()

    def flush(self, seconds: float) -> None:
        # The library waits for a collector as long as one export may take, whatever it is told.
        work = threading.Thread(target=self._provider.force_flush, daemon=True)
        work.start()
        work.join(seconds)


class FileSpanExporter(SpanExporter):
    """Appends spans to a file."""

    def __init__(self, path: str) -> None:
        """Open the file, and make it when it is missing."""
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        os.write(self._file, "".join(json.dumps(_to_json(span)) + "\n" for span in spans).encode())
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Leave the file to the end of the process: spans may end later than the provider."""


def _to_json(span: ReadableSpan) -> dict[str, Any]:
    context = span.get_span_context()
    return {
        "trace_id": f"{context.trace_id:032x}" if context else "",
        "span_id": f"{context.span_id:016x}" if context else "",
        "parent_id": f"{span.parent.span_id:016x}" if span.parent else "",
        "name": span.name,
        "kind": span.kind.name.lower(),
        "service": span.resource.attributes.get("service.name", ""),
        "start_ns": span.start_time,
        "end_ns": span.end_time,
        "error": span.status.status_code is StatusCode.ERROR,
        "attributes": dict(span.attributes or {}),
    }
