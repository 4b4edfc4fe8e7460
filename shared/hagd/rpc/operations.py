"""google.longrunning.Operations over runs, for clients that know nothing of hagd but this standard interface."""

# ruff: noqa: ARG002  # gRPC hands a context to every method

from typing import Any

from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import empty_pb2

from hagd.errors import UsageError
from hagd.rpc.codec import operation_of, run_id_of_operation
from hagd.rpc.run_service import RunService
from hagd.rpc.security.caller import caller


class OperationsServicer(operations_pb2_grpc.OperationsServicer):
    """Names are `runs/<run_id>`. Operations are kept as long as their runs, so Delete is refused."""

    def __init__(self, service: RunService) -> None:
        self._service = service

    async def GetOperation(self, request: operations_pb2.GetOperationRequest, context: Any) -> operations_pb2.Operation:
        return operation_of(await self._service.get(run_id_of_operation(request.name)))

    async def ListOperations(
        self, request: operations_pb2.ListOperationsRequest, context: Any
    ) -> operations_pb2.ListOperationsResponse:
        if request.filter:
            raise UsageError("this service does not filter operations", "leave the filter empty")
        runs, token = await self._service.page(request.page_size, request.page_token)
        return operations_pb2.ListOperationsResponse(
            operations=[operation_of(run) for run in runs], next_page_token=token
        )

    async def CancelOperation(self, request: operations_pb2.CancelOperationRequest, context: Any) -> empty_pb2.Empty:
        await self._service.cancel(run_id_of_operation(request.name), caller().principal)
        return empty_pb2.Empty()

    async def DeleteOperation(self, request: operations_pb2.DeleteOperationRequest, context: Any) -> empty_pb2.Empty:
        raise UsageError("operations live as long as their runs", "cancel the operation to stop it")

    async def WaitOperation(
        self, request: operations_pb2.WaitOperationRequest, context: Any
    ) -> operations_pb2.Operation:
        timeout = request.timeout if request.HasField("timeout") else None
        return operation_of(await self._service.wait(run_id_of_operation(request.name), timeout, context))
