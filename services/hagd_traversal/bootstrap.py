"""The one place where real things are wired: log, store, executor, loops, servicer."""

from typing import Any

import grpc

from hagd.api.traversal.v1 import traversal_pb2, traversal_pb2_grpc
from hagd.deployment.config import ServiceConfig
from hagd.rpc.hosting import StageHost
from hagd.rpc.wiring import Wiring
from hagd_traversal.config import IDENTITY
from hagd_traversal.servicer import TraversalServicer

SERVICE = traversal_pb2.DESCRIPTOR.services_by_name["TraversalService"].full_name


def bootstrap(config: ServiceConfig) -> StageHost:
    """Build the service; errors are those of `Wiring.open`."""
    wiring = Wiring.open(config, IDENTITY.stages)
    service = wiring.service()

    def register(server: grpc.aio.Server) -> None:
        servicer: Any = TraversalServicer(service)
        traversal_pb2_grpc.add_TraversalServiceServicer_to_server(servicer, server)

    return wiring.host(IDENTITY.name, service, SERVICE, register)
