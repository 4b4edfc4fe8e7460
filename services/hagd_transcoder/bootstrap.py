"""The one place where real things are wired: log, store, executor, loops, servicer.

This service also runs the router, which hands new requests to the first stage of their plan.
"""

from typing import Any

import grpc

from hagd.api.transcoder.v1 import transcoder_pb2, transcoder_pb2_grpc
from hagd.deployment.config import ServiceConfig
from hagd.extraction.plan import plan_of_settings
from hagd.rpc.hosting import StageHost
from hagd.rpc.wiring import Wiring
from hagd_transcoder.config import IDENTITY
from hagd_transcoder.servicer import TranscoderServicer

SERVICE = transcoder_pb2.DESCRIPTOR.services_by_name["TranscoderService"].full_name


def bootstrap(config: ServiceConfig) -> StageHost:
    """Build the service; errors are those of `Wiring.open`."""
    wiring = Wiring.open(config, IDENTITY.stages, routes=True, plan_settings=plan_of_settings)
    service = wiring.service()

    def register(server: grpc.aio.Server) -> None:
        servicer: Any = TranscoderServicer(service, config.stream_runs)
        transcoder_pb2_grpc.add_TranscoderServiceServicer_to_server(servicer, server)

    return wiring.host(IDENTITY.name, service, SERVICE, register)
