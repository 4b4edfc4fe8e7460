"""What is told of calls: a span on either side, joined by `traceparent` in the metadata, and metrics of the server.

Own interceptors, because the instrumentation that OpenTelemetry offers for grpc.aio is not released as stable and goes
by a context of its own.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import grpc

from hagd.telemetry.metrics import GRPC_REQUESTS, GRPC_SECONDS, Meter
from hagd.telemetry.traceparent import HEADER, checked
from hagd.telemetry.tracing import current_traceparent, span

_FACTORIES: Final[dict[tuple[bool, bool], Any]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}
"""By (request streams, response streams)."""
_QUIET: Final = ("/grpc.health.", "/grpc.reflection.")
"""Asked by machines every few seconds, and part of no run: counted, but no spans."""


class ObservingInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every method of a server; the first of its interceptors, so that it sees what the others answer."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    async def intercept_service(  # pyright: ignore[reportIncompatibleMethodOverride]  # the stub's generics say nothing here
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        # Methods that nobody serves come here too, under whatever name a caller chose: they are not counted.
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method: str = handler_call_details.method
        parent = _parent_in(handler_call_details.invocation_metadata)
        if handler.response_streaming:
            wrapped = self._stream(handler.stream_stream or handler.unary_stream, method, parent)
        else:
            wrapped = self._call(handler.stream_unary or handler.unary_unary, method, parent)
        factory = _FACTORIES[handler.request_streaming, handler.response_streaming]
        return factory(wrapped, handler.request_deserializer, handler.response_serializer)

    def _call(self, inner: Any, method: str, parent: str) -> Any:
        async def call(request: Any, context: Any) -> Any:
            with self._observed(method, parent, context):
                return await inner(request, context)

        return call

    def _stream(self, inner: Any, method: str, parent: str) -> Any:
        async def call(request: Any, context: Any) -> AsyncIterator[Any]:
            with self._observed(method, parent, context):
                answer = inner(request, context)
                # Health streams through `context.write`, our own servicers by yielding.
                if hasattr(answer, "__aiter__"):
                    async for message in answer:
                        yield message
                else:
                    await answer

        return call

    @contextmanager
    def _observed(self, method: str, parent: str, context: Any) -> Generator[None]:
        began = time.perf_counter()
        code = "CANCELLED"
        try:
            with span(method.lstrip("/"), kind="server", parent=parent) as serving:
                if method.startswith(_QUIET):
                    serving.drop()
                try:
                    yield
                    code = _code_of(context, grpc.StatusCode.OK)
                except Exception:
                    code = _code_of(context, grpc.StatusCode.UNKNOWN)
                    raise
                finally:
                    serving.set(code=code)
        finally:
            self._meter.add(GRPC_REQUESTS, method=method, code=code)
            self._meter.observe(GRPC_SECONDS, time.perf_counter() - began, method=method)


def _code_of(context: Any, otherwise: grpc.StatusCode) -> str:
    """Give the status that a servicer has set; grpc.aio has it as a number, and 0 or None where it set none."""
    code: Any = context.code()
    if isinstance(code, grpc.StatusCode):
        return code.name
    return next((each.name for each in grpc.StatusCode if code and each.value[0] == code), otherwise.name)


def _parent_in(metadata: Sequence[tuple[str, Any]] | None) -> str:
    return next((checked(value) for name, value in metadata or () if name == HEADER), "")


class _Call(NamedTuple):
    """The details of a call, with other metadata. What gRPC hands an interceptor cannot be changed."""

    method: str
    timeout: float | None
    metadata: Sequence[tuple[str, Any]]
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


class TracingClientInterceptor(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Puts calls into spans and tells the server under which."""

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        with span(client_call_details.method.lstrip("/"), kind="client"):
            # Blocks until there is an answer, which is then a future that is done.
            return continuation(_traced(client_call_details), request)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        # The stream ends long after this returns, and its server has a span of it.
        return continuation(_traced(client_call_details), request)


def _traced(details: Any) -> Any:
    trace = current_traceparent()
    metadata = [*(details.metadata or ()), *([(HEADER, trace)] if trace else [])]
    return _Call(
        details.method, details.timeout, metadata, details.credentials, details.wait_for_ready, details.compression
    )
