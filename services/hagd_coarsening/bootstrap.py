"""The one place where real things are wired: log, store, executor, loops, servicer."""

from typing import Any

import grpc

from hagd.api.coarsening.v1 import coarsening_pb2, coarsening_pb2_grpc
from hagd.deployment.config import ServiceConfig
from hagd.rpc.hosting import StageHost
from hagd.rpc.wiring import Wiring
from hagd_coarsening.config import IDENTITY
from hagd_coarsening.servicer import CoarseningServicer

SERVICE = coarsening_pb2.DESCRIPTOR.services_by_name["CoarseningService"].full_name


def bootstrap(config: ServiceConfig) -> StageHost:
    """Build the service; errors are those of `Wiring.open`."""
    wiring = Wiring.open(config, IDENTITY.stages)
    service = wiring.service()

    def register(server: grpc.aio.Server) -> None:
        servicer: Any = CoarseningServicer(service)
        coarsening_pb2_grpc.add_CoarseningServiceServicer_to_server(servicer, server)

    return wiring.host(IDENTITY.name, service, SERVICE, register)
