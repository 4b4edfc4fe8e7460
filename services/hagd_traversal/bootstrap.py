"""The one place where real things are wired: log, store, executor, loops, servicer."""

from typing import Any

import grpc

from hagd.api.traversal.v1 import traversal_pb2, traversal_pb2_grpc
from hagd.rpc.hosting import StageHost
from hagd.rpc.wiring import ServiceConfig, Wiring
from hagd_traversal.config import NAME, STAGES
from hagd_traversal.servicer import TraversalServicer

SERVICE = traversal_pb2.DESCRIPTOR.services_by_name["TraversalService"].full_name


def bootstrap(config: ServiceConfig) -> StageHost:
    """Build the service; errors are those of `Wiring.open`."""
    wiring = Wiring.open(config)
    service = wiring.service(config.stages or STAGES)

    def register(server: grpc.aio.Server) -> None:
        servicer: Any = TraversalServicer(service)
        traversal_pb2_grpc.add_TraversalServiceServicer_to_server(servicer, server)

    return wiring.host(NAME, service, SERVICE, register)
