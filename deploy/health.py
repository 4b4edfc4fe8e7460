"""Say by exit code whether the service of this container serves. Kubernetes asks by itself; compose needs this.

With TLS, HAGD_CA_FILE says who signs the certificate of the service, and HAGD_CERT_FILE and HAGD_KEY_FILE what to show.
"""

import os
import sys
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hagd.errors import HagdError
from hagd.rpc.security.channel import ClientSecurity

TIMEOUT_SECONDS = 3.0


def is_serving(port: str) -> bool:
    """Ask the health service on this machine."""
    try:
        with ClientSecurity.from_environment().open(f"127.0.0.1:{port}") as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_SECONDS)
    except (grpc.RpcError, HagdError):
        return False
    return answer.status == health_pb2.HealthCheckResponse.SERVING


if __name__ == "__main__":
    sys.exit(0 if is_serving(os.environ.get("HAGD_LISTEN", ":50051").rpartition(":")[2]) else 1)
