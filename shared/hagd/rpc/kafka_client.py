"""A caller that reaches Kafka and no service: it asks as any producer may, and learns from facts what becomes of it.

The same methods as `StageClient` for submitting and watching. Where the services are, it does not know.
"""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from hagd.errors import InvalidInputError
from hagd.events.cloud_event import PROTOBUF, CloudEvent
from hagd.events.kafka.log import KafkaEventLog
from hagd.events.kafka.settings import KafkaSettings
from hagd.pipeline.following import FactFollower, follow
from hagd.pipeline.intake import REQUESTED, event_of
from hagd.pipeline.request import Request
from hagd.pipeline.state import RunState
from hagd.rpc.codec import request_to_proto

_LOOK_SECONDS: Final = 0.2


class KafkaClient:
    """A connection to Kafka; usable as a context manager."""

    def __init__(self, settings: KafkaSettings) -> None:
        """Name the brokers; connects at the first call."""
        self._log = KafkaEventLog(settings)
        self._follower: FactFollower | None = None

    def submit(self, request: Request) -> RunState:
        """Write a request; whether it is taken, only facts tell.

        Raises:
            InvalidInputError: it is too large, or holds what JSON cannot.
            UnavailableError: Kafka does not answer, or has no such topic.
        """
        identity = event_of(request).id
        follower = FactFollower(self._log, request)
        follower.skip_refusals()
        data = request_to_proto(request).SerializeToString(deterministic=True)
        event = CloudEvent(identity, request.principal, REQUESTED, PROTOBUF, data)
        self._log.write_cloud_event(REQUESTED, identity, event)
        self._follower = follower
        return follower.state

    def watch(self, run_id: str, on_progress: Callable[[str, float, float, str], None]) -> RunState:
        """Follow the run that was submitted here to its end; `on_progress` gets (stage, done, total, message).

        Raises:
            InvalidInputError: another run was submitted last.
            HagdError: the request was refused, with the error that refused it.
        """
        if self._follower is None or self._follower.state.run_id != run_id:
            raise InvalidInputError(f"run {run_id[:12]} was not submitted here", "submit it first")
        return follow(self._follower, on_progress, lambda: time.sleep(_LOOK_SECONDS))

    def close(self) -> None:
        """Let the connection go."""
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
