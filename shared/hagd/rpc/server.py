"""The server every service runs: health, reflection, size limits, error details, and a drain before the end."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from hagd.errors import UnavailableError
from hagd.rpc.interceptors import ErrorInterceptor
from hagd.rpc.observing import ObservingInterceptor
from hagd.telemetry.metrics import Meter, SilentMeter

MESSAGE_LIMIT_BYTES = 4 * 2**20
"""Tensors never travel in messages: a larger one is a mistake and is refused."""
DRAIN = timedelta(seconds=10)
"""How long calls that have begun may go on after the service has said that it stops."""


@dataclass(frozen=True)
class ServerAddress:
    """Where a server listens, the chosen port included."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def channel_options() -> list[tuple[str, int]]:
    """Give the limits that servers and clients share."""
    return [
        ("grpc.max_receive_message_length", MESSAGE_LIMIT_BYTES),
        ("grpc.max_send_message_length", MESSAGE_LIMIT_BYTES),
    ]


class StageServer:
    """One grpc.aio server with its health service.

    `register` adds the servicers; `services` are their full names, for health and reflection. `reflects` says whether
    callers may ask for these names and their messages.
    """

    def __init__(
        self,
        register: Callable[[grpc.aio.Server], None],
        services: Sequence[str],
        *,
        reflects: bool = True,
        meter: Meter | None = None,
    ) -> None:
        options = [*channel_options(), ("grpc.so_reuseport", 0)]  # a second process on a port fails instead of sharing
        self._server = grpc.aio.server(
            interceptors=[ObservingInterceptor(meter or SilentMeter()), ErrorInterceptor()], options=options
        )
        self._services = ("", *services)
        self._health = health.aio.HealthServicer()  # pyright: ignore[reportAttributeAccessIssue]  # missing in the stub
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        register(self._server)
        if reflects:
            names = [*services, health.SERVICE_NAME, reflection.SERVICE_NAME]
            reflection.enable_server_reflection(names, self._server)

    async def start(self, listen: str) -> ServerAddress:
        """Bind `host:port` (port 0 takes a free one) and serve.

        Raises:
            UnavailableError: the address cannot be bound.
        """
        try:
            port = self._server.add_insecure_port(listen)
        except RuntimeError as error:
            message = f"cannot listen on {listen}"
            raise UnavailableError(message, "is another service running there? choose another --listen") from error
        await self._server.start()
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        return ServerAddress(listen.rpartition(":")[0].strip("[]"), port)

    async def drain(self, grace: timedelta = DRAIN) -> None:
        """Say NOT_SERVING, refuse new calls, let begun ones end within `grace`."""
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._server.stop(grace.total_seconds())

    async def serve_until(self, stop: asyncio.Event, grace: timedelta = DRAIN) -> None:
        """Wait for `stop`, then drain."""
        await stop.wait()
        await self.drain(grace)

    async def _set_health(self, status: int) -> None:
        for service in self._services:
            await self._health.set(service, status)
