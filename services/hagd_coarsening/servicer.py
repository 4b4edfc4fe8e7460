"""CoarseningService on the wire: the methods that all stages share."""

from hagd.api.coarsening.v1 import coarsening_pb2_grpc
from hagd.rpc.run_service import RunMethods


class CoarseningServicer(RunMethods, coarsening_pb2_grpc.CoarseningServiceServicer):
    """Answers for the attribution graph and its hierarchy."""
