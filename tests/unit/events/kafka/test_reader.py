"""Reading for observers ends, also where brokers fall silent in the middle of it."""

from collections.abc import Sequence
from typing import Any

import pytest
from kafka.structs import TopicPartition

from hagd.errors import UnavailableError
from hagd.events.kafka import reader
from hagd.events.kafka.reader import TopicReader
from kafka_logs import settings


class Silent:
    """A client whose brokers told where a topic ends, and tell nothing more."""

    closed = False

    def partitions_for_topic(self, topic: str) -> set[int]:  # noqa: ARG002 - as of the client
        return {0}

    def end_offsets(self, places: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, 3)

    def beginning_offsets(self, places: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, 0)

    def assign(self, places: Sequence[TopicPartition]) -> None: ...

    def seek(self, place: TopicPartition, offset: int) -> None: ...

    def position(self, place: TopicPartition) -> int:  # noqa: ARG002 - as of the client
        return 0

    def poll(self, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[Any]]:  # noqa: ARG002 - as of the client
        return {}

    def close(self, **options: Any) -> None:  # noqa: ARG002 - as of the client
        self.closed = True


def test_records_that_never_come_are_an_outage_and_the_next_read_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Silent] = []

    def connect(*args: Any, **options: Any) -> Silent:
        made.append(Silent())
        return made[-1]

    monkeypatch.setattr(reader, "connect", connect)
    observer = TopicReader(settings("127.0.0.1:1", delivery_timeout_seconds=0.2))
    for _ in range(2):
        with pytest.raises(UnavailableError, match="topic has records that do not come"):
            observer.read("topic", {}, 10)
    assert [it.closed for it in made] == [True, True]
