"""What the four services do with runs: the methods they share, over the store and the event log.

A call reads the store, or writes a request and its event. It never starts work: the consumer loop does.
"""

# ruff: noqa: ARG002  # gRPC hands a context to every method

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from google.longrunning import operations_pb2
from google.protobuf import duration_pb2

from hagd.api.extraction.v1 import extraction_pb2
from hagd.api.run.v1 import run_pb2
from hagd.errors import InvalidInputError, UnknownNameError
from hagd.events.log import START, EventLog, advance
from hagd.events.topics import PROGRESSED
from hagd.pipeline.contract import StageSpec
from hagd.pipeline.request import Request
from hagd.pipeline.runs import RunStore
from hagd.pipeline.state import RunState
from hagd.rpc.codec import operation_of, request_from_proto, run_to_proto
from hagd.rpc.security.caller import caller

_LOG: Final = logging.getLogger(__name__)
POLL: Final = timedelta(milliseconds=200)
"""How often the store is asked when a caller waits for a run."""
SLOWEST_POLL: Final = timedelta(seconds=2)
"""How often it is asked in the end when that takes long."""
LONGEST_WAIT: Final = timedelta(minutes=10)
"""A Wait without a timeout and without a deadline answers after this time."""
_REMEMBERED: Final = 1000
"""Runs whose progress is kept, however many there have been."""
_PAGE: Final = 100
_LARGEST_PAGE: Final = 1000


class ProgressFeed:
    """The latest progress of each stage of those runs that reported last, read from the log on demand."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._position = START
        self._latest: dict[str, dict[str, run_pb2.Progress]] = {}
        self._lock = asyncio.Lock()
        self._read_at = -1.0

    async def latest(self, run_id: str) -> Mapping[str, run_pb2.Progress]:
        """Give the progress of a run by stage, at most `POLL` old."""
        async with self._lock:
            if time.monotonic() - self._read_at >= POLL.total_seconds():
                await asyncio.to_thread(self._catch_up)
                self._read_at = time.monotonic()
            return dict(self._latest.get(run_id, {}))

    def _catch_up(self) -> None:
        while records := self._log.read(PROGRESSED, self._position):
            for record in records:
                event = record.envelope
                stage = event.plan[event.stage_index].stage_id
                # Put last, so that the first are those that have been silent longest.
                latest = self._latest.pop(event.run_id, {})
                self._latest[event.run_id] = latest
                latest[stage] = run_pb2.Progress(
                    stage_id=stage,
                    done=_number(event.data.get("done")),
                    total=_number(event.data.get("total")),
                    message=str(event.data.get("message", "")),
                )
            self._position = advance(self._position, records)
            for run_id in list(self._latest)[:-_REMEMBERED]:
                del self._latest[run_id]


@dataclass(frozen=True)
class RunService:
    """Answers for all runs, whichever service they were sent to."""

    runs: RunStore
    log: EventLog
    submit_request: Callable[[Request], RunState]
    """Writes the request and its event; the same request again gives the same run."""
    stages: Mapping[str, StageSpec]
    """The stages that this service runs: a plan that is sent here starts with one of them."""
    feed: ProgressFeed = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "feed", ProgressFeed(self.log))

    async def submit(self, message: extraction_pb2.SubmitRequest, principal: str) -> RunState:
        """Accept a request of `principal`.

        Raises:
            UsageError: the plan or a config is refused, or starts with a stage of another service.
            RunConflictError: the request id names another request.
        """
        request = request_from_proto(message, principal)
        first = request.plan[0].stage_id
        if first not in self.stages:
            raise InvalidInputError(
                f"this service does not run stage {first!r}, with which the plan starts",
                f"it runs {', '.join(sorted(self.stages))}; send the plan to the service of its first stage",
            )
        return await asyncio.to_thread(self.submit_request, request)

    async def get(self, run_id: str) -> RunState:
        """Give the state of a run."""
        return await asyncio.to_thread(self.runs.get, self._checked(run_id))

    async def page(self, page_size: int, page_token: str) -> tuple[list[RunState], str]:
        """Give runs in the order of their ids, and the token of the next page (empty after the last)."""
        size = min(page_size if page_size > 0 else _PAGE, _LARGEST_PAGE)
        found = await asyncio.to_thread(self.runs.page, page_token, size + 1)
        shown = found[:size]
        states = [await self.get(run_id) for run_id in shown]
        return states, shown[-1] if len(found) > size else ""

    async def cancel(self, run_id: str, principal: str) -> RunState:
        """Ask a run to stop, whosever it is, and give its state."""
        await asyncio.to_thread(self.runs.cancel, self._checked(run_id))
        _LOG.info("cancel of run %s was asked for by %s", run_id, principal)
        return await self.get(run_id)

    async def wait(self, run_id: str, timeout: duration_pb2.Duration | None, context: Any) -> RunState:
        """Give the run when it has finished, or as it is when time is up."""
        end = time.monotonic() + _waiting_seconds(timeout, context)
        run = await self.get(run_id)
        pause = POLL.total_seconds()
        while run.outcome is None and time.monotonic() < end:
            await asyncio.sleep(min(pause, max(0.0, end - time.monotonic())))
            pause = _longer(pause)
            run = await self.get(run_id)
        return run

    async def ended(self, run_id: str) -> RunState:
        """Give the run when it has finished, however long that takes."""
        pause = POLL.total_seconds()
        while await asyncio.to_thread(self.runs.outcome, run_id) is None:
            await asyncio.sleep(pause)
            pause = _longer(pause)
        return await self.get(run_id)

    async def watch(self, run_id: str) -> AsyncIterator[run_pb2.RunUpdate]:
        """Send the run on every change, progress in between, and end with the finished run."""
        sent: dict[str, run_pb2.Progress] = {}
        last: run_pb2.Run | None = None
        while True:
            run = await self.get(run_id)
            message = run_to_proto(run)
            for stage, progress in (await self.feed.latest(run_id)).items():
                if sent.get(stage) != progress:
                    sent[stage] = progress
                    yield run_pb2.RunUpdate(progress=progress)
            if message != last:
                last = message
                yield run_pb2.RunUpdate(run=message)
            if run.outcome is not None:
                return
            await asyncio.sleep(POLL.total_seconds())

    def _checked(self, run_id: str) -> str:
        """Refuse what cannot be a run id before it becomes part of a key."""
        if len(run_id) != 64 or not set(run_id) <= set("0123456789abcdef"):
            raise UnknownNameError(f"there is no run {run_id!r}", "run ids have 64 hexadecimal digits")
        return run_id


def _longer(pause: float) -> float:
    """Ask less often for what takes long: of the time that it took, a tenth more at most."""
    return min(1.1 * pause, SLOWEST_POLL.total_seconds())


def _number(value: object) -> float:
    """Give a number of an event; 0 when it is none, because one that cannot be read would stand in everybody's way."""
    return float(value) if isinstance(value, int | float) else 0.0


def _waiting_seconds(timeout: duration_pb2.Duration | None, context: Any) -> float:
    """Answer before the caller's deadline, so that it gets the state and not an error."""
    asked = LONGEST_WAIT.total_seconds() if timeout is None else timeout.seconds + timeout.nanos / 1e9
    remaining: float | None = context.time_remaining()
    return asked if remaining is None else min(asked, max(0.0, 0.9 * remaining - 0.05))


class RunMethods:
    """The methods that every stage service has, as the generated servicer classes name them."""

    def __init__(self, service: RunService) -> None:
        self.service = service

    async def Submit(self, request: extraction_pb2.SubmitRequest, context: Any) -> operations_pb2.Operation:
        return operation_of(await self.service.submit(request, caller().principal))

    async def Get(self, request: run_pb2.GetRunRequest, context: Any) -> run_pb2.Run:
        return run_to_proto(await self.service.get(request.run_id))

    async def List(self, request: run_pb2.ListRunsRequest, context: Any) -> run_pb2.ListRunsResponse:
        runs, token = await self.service.page(request.page_size, request.page_token)
        return run_pb2.ListRunsResponse(runs=[run_to_proto(run) for run in runs], next_page_token=token)

    async def Cancel(self, request: run_pb2.CancelRunRequest, context: Any) -> run_pb2.Run:
        return run_to_proto(await self.service.cancel(request.run_id, caller().principal))

    async def Wait(self, request: run_pb2.WaitRunRequest, context: Any) -> run_pb2.Run:
        timeout = request.timeout if request.HasField("timeout") else None
        return run_to_proto(await self.service.wait(request.run_id, timeout, context))

    async def Watch(
        self,
        request: run_pb2.WatchRunRequest,
        context: Any,
    ) -> AsyncIterator[run_pb2.RunUpdate]:
        async for update in self.service.watch(request.run_id):
            yield update
