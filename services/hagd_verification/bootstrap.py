"""The one place where real things are wired: log, store, executor, loops, servicer."""

from typing import Any

import grpc

from hagd.api.verification.v1 import verification_pb2, verification_pb2_grpc
from hagd.deployment.config import ServiceConfig
from hagd.rpc.hosting import StageHost
from hagd.rpc.wiring import Wiring
from hagd_verification.config import IDENTITY
from hagd_verification.servicer import VerificationServicer

SERVICE = verification_pb2.DESCRIPTOR.services_by_name["VerificationService"].full_name


def bootstrap(config: ServiceConfig) -> StageHost:
    """Build the service; errors are those of `Wiring.open`."""
    wiring = Wiring.open(config, IDENTITY.stages)
    service = wiring.service()

    def register(server: grpc.aio.Server) -> None:
        servicer: Any = VerificationServicer(service)
        verification_pb2_grpc.add_VerificationServiceServicer_to_server(servicer, server)

    return wiring.host(IDENTITY.name, service, SERVICE, register)
