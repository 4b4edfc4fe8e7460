"""Errors on the wire: the tree of `hagd.errors` as google.rpc.Status with an ErrorInfo detail, and back.

The detail's reason is the error's kind, so that a client raises the class that the server raised. The hint travels
in the detail's metadata; nothing else of the server's insides does.
"""

from typing import Any, Final, cast

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from hagd.errors import CancelledError, HagdError, UnavailableError, UsageError
from hagd.execution.wire import Failure, error_of

DOMAIN: Final = "hagd"
_CODES: Final[dict[str, int]] = {
    "usage": code_pb2.INVALID_ARGUMENT,
    "unknown-name": code_pb2.NOT_FOUND,
    "unsupported-architecture": code_pb2.INVALID_ARGUMENT,
    "invalid-input": code_pb2.INVALID_ARGUMENT,
    "stage": code_pb2.FAILED_PRECONDITION,
    "accuracy-gate": code_pb2.FAILED_PRECONDITION,
    "artifact-not-found": code_pb2.NOT_FOUND,
    "artifact-corrupt": code_pb2.DATA_LOSS,
    "store-full": code_pb2.RESOURCE_EXHAUSTED,
    "not-a-run": code_pb2.NOT_FOUND,
    "run-locked": code_pb2.ABORTED,
    "run-conflict": code_pb2.ALREADY_EXISTS,
    "quota-exceeded": code_pb2.RESOURCE_EXHAUSTED,
    "access": code_pb2.PERMISSION_DENIED,
    "unauthenticated": code_pb2.UNAUTHENTICATED,
    "permission-denied": code_pb2.PERMISSION_DENIED,
    "cancelled": code_pb2.CANCELLED,
    "worker-died": code_pb2.UNAVAILABLE,
    "unserved-version": code_pb2.UNAVAILABLE,
    "unavailable": code_pb2.UNAVAILABLE,
}
# What a bare code means when no detail of ours comes with it: the channel or another server spoke.
_BARE: Final[dict[grpc.StatusCode, type[HagdError]]] = {
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: UnavailableError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: UsageError,
    grpc.StatusCode.UNIMPLEMENTED: UsageError,
    grpc.StatusCode.CANCELLED: CancelledError,
}


def to_status(error: HagdError) -> status_pb2.Status:
    """Give the wire form of an error."""
    info = error_details_pb2.ErrorInfo(reason=error.kind, domain=DOMAIN, metadata={"hint": error.hint})
    detail = any_pb2.Any()
    detail.Pack(info)
    code = _CODES.get(error.kind, code_pb2.INTERNAL)
    return status_pb2.Status(code=code, message=error.message, details=[detail])


def from_status(status: status_pb2.Status) -> HagdError:
    """Read an error back from its wire form."""
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == DOMAIN:
            return error_of(Failure(info.reason, status.message, dict(info.metadata).get("hint", "")))
    return HagdError(status.message)


def from_call(error: grpc.RpcError, address: str) -> HagdError:
    """Turn what a failed call to `address` raised into an error of the tree."""
    call = cast(Any, error)  # every RpcError of a call is also a grpc.Call; the type does not say so
    status = rpc_status.from_call(call) if hasattr(call, "trailing_metadata") else None
    if status is not None and status.details:
        return from_status(status)
    code: grpc.StatusCode = call.code() if hasattr(call, "code") else grpc.StatusCode.UNKNOWN
    cls = _BARE.get(code, HagdError)
    hint = f"check that a service runs at {address}; `hagd up` starts all four" if cls is UnavailableError else ""
    return cls(f"{address} answered {code.name}: {call.details() if hasattr(call, 'details') else error}", hint)
