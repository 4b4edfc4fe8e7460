"""The server every service runs: health, reflection, limits, a gate, error details, and a drain before the end."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from hagd.deployment.security import SecurityConfig
from hagd.errors import UnavailableError
from hagd.rpc.interceptors import ErrorInterceptor
from hagd.rpc.observing import ObservingInterceptor
from hagd.rpc.security.certificates import ServerCertificates
from hagd.rpc.security.gate import Gate
from hagd.telemetry.metrics import Meter, SilentMeter

DRAIN = timedelta(seconds=10)
"""How long calls that have begun may go on after the service has said that it stops."""


@dataclass(frozen=True)
class ServerAddress:
    """Where a server listens, the chosen port included."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class StageServer:
    """One grpc.aio server with its health service.

    `register` adds the servicers; `services` are their full names, for health and reflection. `reflects` says whether
    callers may ask for these names and their messages; `security` says whom to let in.
    """

    def __init__(
        self,
        register: Callable[[grpc.aio.Server], None],
        services: Sequence[str],
        *,
        reflects: bool = True,
        meter: Meter | None = None,
        security: SecurityConfig | None = None,
    ) -> None:
        self._security = security or SecurityConfig()
        # A second process on a port fails instead of sharing it.
        options = [*self._security.limits.options(), ("grpc.so_reuseport", 0)]
        interceptors = [ObservingInterceptor(meter or SilentMeter()), ErrorInterceptor(), Gate(self._security)]
        self._server = grpc.aio.server(interceptors=interceptors, options=options)
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
            InvalidInputError: the address is open to strangers, see `SecurityConfig.check_address`, or the files of
                TLS do not fit together.
            UnavailableError: the address cannot be bound, or a file cannot be read.
        """
        tls = self._security.tls
        self._security.check_address(listen)
        certificates = ServerCertificates(tls).credentials() if tls is not None else None
        try:
            if certificates is None:
                port = self._server.add_insecure_port(listen)
            else:
                port = self._server.add_secure_port(listen, certificates)
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
