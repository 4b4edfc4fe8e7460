"""Requests to the stages of the benchmarks, sent and heard of as a client would: through the store and the log."""

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Final, Self

from kafka import KafkaConsumer
from kafka.structs import TopicPartition

from benchmarks.cluster.place import PARTITIONS
from benchmarks.cluster.stages import STAGES
from hagd.artifacts.store import ArtifactStore
from hagd.events.log import EventLog
from hagd.pipeline.request import PlanEntry, Request
from hagd.pipeline.runs import RunStore
from hagd.pipeline.stages import identity_of
from hagd.pipeline.submission import announce

_SENDERS: Final = 4


def request_of(name: str, *configs: Mapping[str, Any]) -> Request:
    """Give a request for the first stages of the benchmarks, as many as there are configs."""
    entries = [PlanEntry(stage_id, 1, config) for stage_id, config in zip(STAGES, configs, strict=False)]
    return Request("bench", name, tuple(entries))


def create_all(requests: Sequence[Request], store: ArtifactStore) -> list[str]:
    """Write the requests into the store; give the ids of their runs."""
    runs = RunStore(store)

    def create(request: Request) -> str:
        return runs.create(request, identity_of(request, STAGES))

    with ThreadPoolExecutor(_SENDERS) as pool:
        return list(pool.map(create, requests))


def announce_all(run_ids: Sequence[str], requests: Sequence[Request], log: EventLog) -> float:
    """Append the events of requests that were created, as fast as may be; give the moment before the first."""

    def send(run_id: str, request: Request) -> None:
        announce(run_id, 0, request, log)

    started = time.monotonic()
    with ThreadPoolExecutor(_SENDERS) as pool:
        list(pool.map(send, run_ids, requests))
    return started


class Facts:
    """Hears when each run is announced on a topic. Use as a context manager."""

    def __init__(self, kafka: str, topic: str) -> None:
        """Stand at the end of the topic: earlier facts are not heard."""
        self.heard: dict[str, float] = {}
        """By run id, the moment on the monotonic clock."""
        self._consumer: Any = KafkaConsumer(
            bootstrap_servers=kafka, enable_auto_commit=False, fetch_max_wait_ms=50, metrics_enabled=False
        )
        places = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        self._consumer.assign(places)
        self._consumer.seek_to_end(*places)
        for place in places:
            self._consumer.position(place)
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="facts", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._thread.join()
        self._consumer.close(autocommit=False)

    def await_all(self, run_ids: Iterable[str], seconds: float) -> list[float]:
        """Wait for all runs; give the moments in order.

        Raises:
            TimeoutError: some were not heard of in time.
        """
        wanted = set(run_ids)
        with self._changed:
            if not self._changed.wait_for(lambda: wanted <= self.heard.keys(), seconds):
                raise TimeoutError(f"{len(wanted - self.heard.keys())} of {len(wanted)} runs did not end")
            return sorted(self.heard[run_id] for run_id in wanted)

    def count(self) -> int:
        """Give how many runs were heard of."""
        with self._changed:
            return len(self.heard)

    def _listen(self) -> None:
        while not self._closing.is_set():
            fetched = self._consumer.poll(timeout_ms=50)
            now = time.monotonic()
            with self._changed:
                for records in fetched.values():
                    for record in records:
                        self.heard.setdefault(record.key.decode(), now)
                if fetched:
                    self._changed.notify_all()
