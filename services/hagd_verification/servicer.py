"""VerificationService on the wire: the methods that all stages share."""

from hagd.api.verification.v1 import verification_pb2_grpc
from hagd.rpc.run_service import RunMethods


class VerificationServicer(RunMethods, verification_pb2_grpc.VerificationServiceServicer):
    """Answers for causal verification."""
