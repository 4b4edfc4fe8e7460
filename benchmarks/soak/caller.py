"""Asks for runs and cancels them as clients do: any replica that answers will do, and what failed is asked again."""

import time
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from hagd.errors import HagdError, UnavailableError
from hagd.pipeline.request import Request
from hagd.pipeline.state import RunState
from hagd.rpc.client import StageClient

T = TypeVar("T")
_PAUSE_SECONDS: Final = 0.3
_PATIENCE_SECONDS: Final = 180.0


class Caller:
    """A client of the replicas of one service. Not for use by several threads."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._clients = [StageClient(address) for address in addresses]

    def submit(self, request: Request) -> RunState:
        """Ask for a run until somebody answers."""
        return self._ask(lambda client: client.submit(request))

    def cancel(self, run_id: str) -> RunState:
        """Ask that a run be stopped until somebody answers."""
        return self._ask(lambda client: client.cancel(run_id))

    def close(self) -> None:
        for client in self._clients:
            client.close()

    def _ask(self, call: Callable[[StageClient], T]) -> T:
        """Ask one after the other.

        Raises:
            HagdError: the request is refused.
            UnavailableError: nobody answers for minutes.
        """
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            # Whoever answered last is asked first.
            client = self._clients[0]
            try:
                return call(client)
            except HagdError as error:
                if not error.transient or time.monotonic() > deadline:
                    raise
                last = error
            self._clients.append(self._clients.pop(0))
            if time.monotonic() > deadline:
                raise UnavailableError("no service answers", last.message)
            time.sleep(_PAUSE_SECONDS)
