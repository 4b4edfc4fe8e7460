"""What stands before every method of a service: room, a deadline, a name, and the scope that the method needs."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from hagd.deployment.security import SecurityConfig
from hagd.errors import PermissionDeniedError, UnauthenticatedError, UnavailableError, UsageError
from hagd.rpc.interceptors import surrounded
from hagd.rpc.security.caller import LOCAL, Caller, caller_of_certificate, set_caller
from hagd.rpc.security.scopes import OPEN, SCOPES
from hagd.rpc.security.tokens import TokenVerifier

_BEARER = "bearer "


class Gate(grpc.aio.ServerInterceptor):
    """Lets calls through. What it raises, an interceptor outside of it turns into a status."""

    def __init__(self, security: SecurityConfig) -> None:
        self._security = security
        self._verifier = TokenVerifier(security.tokens) if security.tokens is not None else None
        self._at_work = 0

    async def intercept_service(  # pyright: ignore[reportIncompatibleMethodOverride]  # the stub's generics say nothing here
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        handler = await continuation(handler_call_details)
        method: str = handler_call_details.method
        if handler is None or SCOPES.get(method) == OPEN:
            return handler
        streams: bool = handler.request_streaming or handler.response_streaming

        @asynccontextmanager
        async def passed(context: Any) -> AsyncGenerator[None]:
            self._make_room()
            try:
                if self._security.limits.deadlines and not streams and context.time_remaining() is None:
                    raise UsageError("the call has no deadline", "say how long it waits, such as 30 seconds")
                found = self._identify(context)
                _check_scope(found, method)
                set_caller(found)
                yield
            finally:
                self._at_work -= 1

        return surrounded(handler, passed)

    def _make_room(self) -> None:
        if self._at_work >= self._security.limits.concurrent_calls:
            raise UnavailableError(f"the service is at work on {self._at_work} calls", "try again in a moment")
        self._at_work += 1

    def _identify(self, context: Any) -> Caller:
        if self._verifier is not None:
            return self._verifier.verify(_token_of(context))
        if self._security.tells_callers_apart:
            return caller_of_certificate(context.auth_context())
        return LOCAL


def _token_of(context: Any) -> str:
    values = [value for name, value in context.invocation_metadata() or () if name == "authorization"]
    if len(values) != 1 or not isinstance(values[0], str) or not values[0].lower().startswith(_BEARER):
        raise UnauthenticatedError("the call comes without a token", "give one with --token-file or HAGD_TOKEN_FILE")
    return values[0][len(_BEARER) :].strip()


def _check_scope(found: Caller, method: str) -> None:
    scope = SCOPES.get(method)
    if scope is None:
        raise PermissionDeniedError(f"nobody may call {method}", "it has no scope in this release")
    if scope not in found.scopes:
        raise PermissionDeniedError(
            f"{found.principal} may not call {method.rpartition('/')[2]}: the token lacks the scope {scope}",
            "ask whoever issues tokens for that scope",
        )
