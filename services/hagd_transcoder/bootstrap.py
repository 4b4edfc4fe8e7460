"""The one place where real things are wired: log, store, executor, loops, servicer.

This service also runs the router, which hands new requests to the first stage of their plan.
"""

from typing import Any

import grpc

from hagd.api.transcoder.v1 import transcoder_pb2, transcoder_pb2_grpc
from hagd.rpc.hosting import StageHost
from hagd.rpc.wiring import ServiceConfig, Wiring
from hagd_transcoder.config import NAME, STAGES
from hagd_transcoder.servicer import TranscoderServicer

SERVICE = transcoder_pb2.DESCRIPTOR.services_by_name["TranscoderService"].full_name


def bootstrap(config: ServiceConfig) -> StageHost:
    """Build the service; errors are those of `Wiring.open`."""
    wiring = Wiring.open(config)
    service = wiring.service(config.stages or STAGES)

    def register(server: grpc.aio.Server) -> None:
        servicer: Any = TranscoderServicer(service)
        transcoder_pb2_grpc.add_TranscoderServiceServicer_to_server(servicer, server)

    host = wiring.host(NAME, service, SERVICE, register)
    host.router = wiring.router()
    return host
