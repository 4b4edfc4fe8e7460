"""A caller of the stage services, for the command line and for tests: plain values in and out, errors of the tree.

Reading and cancelling go through google.longrunning.Operations, which every service offers for all runs; so any
address will do. Submitting and watching name the service.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import duration_pb2

from hagd.api.coarsening.v1 import coarsening_pb2_grpc
from hagd.api.run.v1 import run_pb2
from hagd.api.transcoder.v1 import transcoder_pb2_grpc
from hagd.api.traversal.v1 import traversal_pb2_grpc
from hagd.api.verification.v1 import verification_pb2_grpc
from hagd.errors import HagdError, UnknownNameError
from hagd.pipeline.request import Request
from hagd.pipeline.state import RunState
from hagd.rpc.codec import OPERATION_PREFIX, request_to_proto, run_from_proto
from hagd.rpc.observing import TracingClientInterceptor
from hagd.rpc.security.channel import ClientSecurity
from hagd.rpc.status import from_call

T = TypeVar("T")
ANSWER: Final = timedelta(seconds=30)
"""How long a call that only reads or writes state may take."""
WATCH: Final = timedelta(hours=1)
"""How long one call watches before the next one takes over, with a token that may be another by then."""
_STUBS: Final[dict[str, Callable[[grpc.Channel], Any]]] = {
    "transcoder": transcoder_pb2_grpc.TranscoderServiceStub,
    "coarsening": coarsening_pb2_grpc.CoarseningServiceStub,
    "traversal": traversal_pb2_grpc.TraversalServiceStub,
    "verification": verification_pb2_grpc.VerificationServiceStub,
}


class StageClient:
    """A connection to one service; usable as a context manager."""

    def __init__(self, address: str, service: str = "transcoder", security: ClientSecurity | None = None) -> None:
        """Name the service at `address`; connects at the first call.

        Raises:
            UnknownNameError: there is no such service.
            InvalidInputError, UnavailableError: see `ClientSecurity.open`.
        """
        if service not in _STUBS:
            raise UnknownNameError(f"there is no service {service!r}", f"services: {', '.join(_STUBS)}")
        self.address = address
        self._security = security or ClientSecurity()
        channel = self._security.open(address)
        self._channel: grpc.Channel = grpc.intercept_channel(channel, TracingClientInterceptor())
        self._stub = _STUBS[service](self._channel)
        self._operations: Any = operations_pb2_grpc.OperationsStub(self._channel)

    def submit(self, request: Request) -> RunState:
        """Ask for a run; the same request again gives the same run.

        Raises:
            HagdError: what the service raised; UnavailableError when it does not answer.
        """
        return self._run_of(self._call(self._stub.Submit, request_to_proto(request)))

    def get(self, run_id: str) -> RunState:
        """Give the state of a run."""
        message = operations_pb2.GetOperationRequest(name=OPERATION_PREFIX + run_id)
        return self._run_of(self._call(self._operations.GetOperation, message))

    def list(self) -> list[RunState]:
        """Give all runs."""
        found: list[RunState] = []
        token = ""
        while True:
            message = operations_pb2.ListOperationsRequest(name="runs", page_token=token)
            page = self._call(self._operations.ListOperations, message)
            found += [self._run_of(operation) for operation in page.operations]
            token = page.next_page_token
            if not token:
                return found

    def cancel(self, run_id: str) -> RunState:
        """Ask a run to stop, and give its state."""
        message = operations_pb2.CancelOperationRequest(name=OPERATION_PREFIX + run_id)
        self._call(self._operations.CancelOperation, message)
        return self.get(run_id)

    def wait(self, run_id: str, timeout: timedelta) -> RunState:
        """Give the run when it has finished, or as it is after `timeout`."""
        asked = duration_pb2.Duration()
        asked.FromTimedelta(timeout)
        message = operations_pb2.WaitOperationRequest(name=OPERATION_PREFIX + run_id, timeout=asked)
        return self._run_of(self._call(self._operations.WaitOperation, message, timeout + ANSWER))

    def _run_of(self, operation: operations_pb2.Operation) -> RunState:
        message = run_pb2.Run()
        if not operation.metadata.Unpack(message):
            raise HagdError(f"{self.address} answered with an operation of an unknown kind", "is it another release?")
        return run_from_proto(message)

    def watch(self, run_id: str, on_progress: Callable[[str, float, float, str], None]) -> RunState:
        """Follow a run to its end; `on_progress` gets (stage, done, total, message)."""
        while True:
            try:
                return self._watched(run_id, on_progress)
            except grpc.RpcError as error:
                if not isinstance(error, grpc.Call) or error.code() != grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise from_call(error, self.address) from error

    def _watched(self, run_id: str, on_progress: Callable[[str, float, float, str], None]) -> RunState:
        """Follow a run for at most `WATCH`."""
        state: RunState | None = None
        request = run_pb2.WatchRunRequest(run_id=run_id)
        metadata = self._security.metadata()
        for update in self._stub.Watch(request, timeout=WATCH.total_seconds(), metadata=metadata):
            if update.HasField("run"):
                state = run_from_proto(update.run)
            else:
                it = update.progress
                on_progress(it.stage_id, it.done, it.total, it.message)
        return state if state is not None else self.get(run_id)

    def close(self) -> None:
        """Let the connection go."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, method: Any, message: Any, timeout: timedelta = ANSWER) -> Any:
        with self._errors():
            return method(message, timeout=timeout.total_seconds(), metadata=self._security.metadata())

    @contextmanager
    def _errors(self) -> Generator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise from_call(error, self.address) from error
