"""TraversalService on the wire: the methods that all stages share."""

from hagd.api.traversal.v1 import traversal_pb2_grpc
from hagd.rpc.run_service import RunMethods


class TraversalServicer(RunMethods, traversal_pb2_grpc.TraversalServiceServicer):
    """Answers for the guided search."""
