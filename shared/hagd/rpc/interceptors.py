"""Server interceptors: how one surrounds a method of any kind, and the one that tells callers of errors.

An error of the tree becomes a rich status; anything else is logged and stays inside.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

import grpc
import structlog
from grpc_status import rpc_status

from hagd.errors import HagdError
from hagd.rpc.status import to_status

_log: Any = structlog.get_logger("hagd.rpc")
Surround = Callable[[Any], AbstractAsyncContextManager[None]]
"""From the context of a call to what is entered before its method begins, and left after it has ended."""
# By (request streams, response streams).
_FACTORIES: Final[dict[tuple[bool, bool], Any]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def surrounded(handler: Any, surround: Surround) -> Any:
    """Give a method handler whose calls take place inside `surround`."""
    if handler.response_streaming:
        wrapped = _stream(handler.stream_stream or handler.unary_stream, surround)
    else:
        wrapped = _call(handler.stream_unary or handler.unary_unary, surround)
    factory = _FACTORIES[handler.request_streaming, handler.response_streaming]
    return factory(wrapped, handler.request_deserializer, handler.response_serializer)


def _call(inner: Any, surround: Surround) -> Any:
    async def call(request: Any, context: Any) -> Any:
        async with surround(context):
            return await inner(request, context)

    return call


def _stream(inner: Any, surround: Surround) -> Any:
    # Health streams through `context.write`, our own servicers by yielding; both forms come here.
    async def call(request: Any, context: Any) -> AsyncIterator[Any]:
        async with surround(context):
            answer = inner(request, context)
            if hasattr(answer, "__aiter__"):
                async for message in answer:
                    yield message
            else:
                await answer

    return call


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every method of a server."""

    async def intercept_service(  # pyright: ignore[reportIncompatibleMethodOverride]  # the stub's generics say nothing here
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        handler = await continuation(handler_call_details)
        method: str = handler_call_details.method

        @asynccontextmanager
        async def told(context: Any) -> AsyncGenerator[None]:
            try:
                yield
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                await _abort(error, method, context)

        return None if handler is None else surrounded(handler, told)


async def _abort(error: Exception, method: str, context: Any) -> None:
    """Answer with what a caller may know of the error."""
    if not isinstance(error, HagdError):
        _log.error("call failed", method=method, exc_info=error)
        error = HagdError("the service failed inside", "its log has the reason")
    await context.abort_with_status(rpc_status.to_status(to_status(error)))
