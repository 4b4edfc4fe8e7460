"""The calls to Kafka and S3 that one request makes, written down in their order by wrapping the adapters.

A hop is what one loop does with one request: it is claimed, the store is asked, events are appended.
"""

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import parse_qs, urlsplit

import urllib3

from hagd.artifacts.clock import SystemClock
from hagd.artifacts.leases import LeaseTable
from hagd.artifacts.store import ArtifactStore
from hagd.events.envelope import Envelope
from hagd.events.log import START, Delivery, EventLog, Position, Record, UnreadableRecord
from hagd.events.topics import ENTRY_STAGE, requested_topic
from hagd.execution.inline import InlineExecutor
from hagd.pipeline.contract import StageSpec
from hagd.pipeline.loop import StageLoop
from hagd.pipeline.router import RequestRouter
from hagd.pipeline.runs import RunStore

Kind = Literal["get", "miss", "list", "put", "delete", "head", "send"]
_ABSENT: Final = 404


@dataclass(frozen=True)
class Call:
    """One call."""

    kind: Kind
    size: int = 0
    """Bytes there or back; of a listing, how many keys it gave."""
    topic: str = ""
    """Of a sent event."""


@dataclass(frozen=True)
class Hop:
    """What becomes of one event of a topic."""

    source: str
    calls: tuple[Call, ...]


def describe(hops: Sequence[Hop]) -> str:
    """Count the calls of one request by kind, in words."""
    found = Counter(call.kind for hop in hops for call in hop.calls)
    stores = sum(number for kind, number in found.items() if kind != "send")
    kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(found.items()) if kind != "send")
    return f"{stores} S3 calls ({kinds}), {len(hops)} events taken, {found['send']} sent"


def record_hops(store: ArtifactStore, log: EventLog, stages: Sequence[StageSpec], requests: int) -> list[Hop]:
    """Let every loop work off so many requests that wait, one loop after the other; write down the last of each."""
    runs, clock = RunStore(store), SystemClock()
    with _written_down() as calls:
        noted = _NotingLog(log, calls)
        router = RequestRouter(noted, runs, {spec.id: spec for spec in stages})
        hops = [Hop(requested_topic(ENTRY_STAGE), _last(router.step, requests, calls))]
        for spec in stages:
            loop = StageLoop(spec, noted, store, runs, InlineExecutor(), LeaseTable(store, clock), clock)
            hops.append(Hop(requested_topic(spec.id), _last(loop.step, requests, calls)))
    return hops


def _last(step: Callable[[], bool], requests: int, calls: list[Call]) -> tuple[Call, ...]:
    while requests:
        calls.clear()
        requests -= step()
    return tuple(calls)


@contextmanager
def _written_down() -> Generator[list[Call]]:
    """Note every HTTP request of this process while the context lasts."""
    calls: list[Call] = []
    original = urllib3.PoolManager.urlopen

    def noting(self: Any, method: str, url: str, *given: Any, **options: Any) -> Any:
        answer = original(self, method, url, *given, **options)
        # Looking whether a stage is to rest is done once a second, however many requests there are.
        if "/objects/control/" not in url:
            calls.append(_call(method, url, options.get("body") or b"", answer))
        return answer

    urllib3.PoolManager.urlopen = noting  # type: ignore[method-assign]
    try:
        yield calls
    finally:
        urllib3.PoolManager.urlopen = original  # type: ignore[method-assign]


def _call(method: str, url: str, body: bytes, answer: Any) -> Call:
    if method == "GET" and "list-type" in parse_qs(urlsplit(url).query):
        return Call("list", answer.data.count(b"<Key>"))
    if method == "GET":
        return Call("miss") if answer.status == _ABSENT else Call("get", int(answer.headers["Content-Length"]))
    kinds: dict[str, Kind] = {"PUT": "put", "DELETE": "delete", "HEAD": "head"}
    return Call(kinds[method], len(body))


class _NotingLog:
    """An event log that notes what is appended."""

    def __init__(self, inner: EventLog, calls: list[Call]) -> None:
        self._inner, self._calls = inner, calls

    def append(self, topic: str, envelope: Envelope) -> bool:
        self._calls.append(Call("send", len(envelope.encode()), topic))
        return self._inner.append(topic, envelope)

    def claim(self, topics: Sequence[str], seconds: float) -> Delivery | None:
        return self._inner.claim(topics, seconds)

    def ack(self, delivery: Delivery) -> bool:
        return self._inner.ack(delivery)

    def release(self, delivery: Delivery, delay_seconds: float = 0.0, *, failed: bool = False) -> bool:
        return self._inner.release(delivery, delay_seconds, failed=failed)

    def extend(self, delivery: Delivery, seconds: float) -> bool:
        return self._inner.extend(delivery, seconds)

    def read(self, topic: str, position: Position = START, limit: int = 1000) -> list[Record]:
        return self._inner.read(topic, position, limit)

    def waiting(self, topics: Sequence[str], limit: int = 1000) -> list[Record]:
        return self._inner.waiting(topics, limit)

    def unreadable(self, topic: str, limit: int = 1000) -> list[UnreadableRecord]:
        return self._inner.unreadable(topic, limit)

    def close(self) -> None:
        self._inner.close()
