"""Working off topics of Kafka: one thread owns the consumer, fetches ahead, and commits what is done.

The thread never computes and polls all the time, so that membership of the group does not depend on how long an event
takes. It stops fetching a partition while its window is full, and takes it up again later. What it shares with the
threads that claim is guarded by one condition.
"""

import logging
import math
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from kafka import ConsumerRebalanceListener, KafkaConsumer
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata, TopicPartition

from hagd.errors import HagdError
from hagd.events.kafka.connection import connect
from hagd.events.kafka.failures import no_topic, translate
from hagd.events.kafka.settings import MAX_RECORD_BYTES, KafkaSettings
from hagd.events.kafka.window import Held, PartitionWindow
from hagd.events.topics import is_retry_topic
from hagd.telemetry.traceparent import HEADER, checked

ATTEMPTS_HEADER: Final = "hagd-attempts"
FAILURES_HEADER: Final = "hagd-failures"
NOT_BEFORE_HEADER: Final = "hagd-not-before"
_OWN_HEADERS: Final = (ATTEMPTS_HEADER, FAILURES_HEADER, NOT_BEFORE_HEADER)
_POLL_MS: Final = 500
"""A poll ends at once when something comes; every one that finds nothing costs the machine a millisecond."""
_FETCH_MS: Final = 500
"""How long the broker keeps a fetch that finds nothing; what comes meanwhile is answered at once."""
_ALL: Final = 1_000_000
"""Every poll hands out all that was fetched. kafka-python 3.0 forgets a partition for ever that is paused while it
holds back a part of a fetch: nothing is fetched of it any more, and nobody is told."""
_FETCH_BYTES: Final = 128 << 10
"""Of a partition, so that little comes for which there is no room; a record that is larger comes all the same."""
_COMMIT_MS: Final = 5_000
_PASSING_SECONDS: Final = 2.0
_FIRST_BACKOFF_SECONDS: Final = 0.1
_LONGEST_BACKOFF_SECONDS: Final = 5.0
_CLOSE_MS: Final = 5_000
_LOG: Final = logging.getLogger(__name__)


class GroupMember:
    """A member of the group that works off some topics."""

    def __init__(
        self, group: str, topics: Sequence[str], settings: KafkaSettings, changed: threading.Condition
    ) -> None:
        """Start the thread, which joins the group in its own time.

        The assignor shares out partitions of all topics alike, so topics that matter each want a group of their own.

        Args:
            group: the name of the group, without the prefix of the settings.
            topics: what the group works off.
            settings: where the brokers are.
            changed: guards `windows`, `there` and `trouble`, and is notified whenever one of them changes.
        """
        self.windows: dict[tuple[str, int], PartitionWindow] = {}
        """The partitions that are ours and of which something was fetched."""
        self.there: frozenset[str] = frozenset()
        """All topics of the cluster when the group was joined."""
        self.trouble: HagdError | None = None
        """What keeps the thread from its work, or None."""
        self._group, self._topics, self._settings, self._changed = group, list(topics), settings, changed
        self._owned: set[tuple[str, int]] = set()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"kafka-{group}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Begin to end, so that several members need not wait for each other."""
        self._closing.set()

    def close(self) -> None:
        """Commit what is done, leave the group, end the thread."""
        self.stop()
        self._thread.join()

    def gain(self, places: Iterable[tuple[str, int]]) -> None:
        """Take in partitions: what is fetched of them is ours to work off."""
        with self._changed:
            self._owned |= set(places)

    def lose(self, places: Iterable[tuple[str, int]]) -> None:
        """Forget partitions: claims on their events are lost, and nothing of them is committed any more."""
        with self._changed:
            for place in set(places):
                self._owned.discard(place)
                self.windows.pop(place, None)

    def finished(self) -> dict[tuple[str, int], int]:
        """Give what Kafka does not know yet: the lowest unfinished offset of each partition that moved on."""
        with self._changed:
            lowest = {place: window.lowest() for place, window in self.windows.items()}
            return {place: offset for place, offset in lowest.items() if offset > self.windows[place].committed}

    def _work(self) -> None:
        """Work until closed; make the consumer anew, after a pause, whenever it is beyond use."""
        backoff = _FIRST_BACKOFF_SECONDS
        while not self._closing.is_set():
            try:
                consumer = self._open()
            except (KafkaError, OSError, HagdError) as error:
                self._tell(error if isinstance(error, HagdError) else translate(error, self._settings.servers))
                self._closing.wait(backoff)
                backoff = min(2 * backoff, _LONGEST_BACKOFF_SECONDS)
                continue
            backoff = _FIRST_BACKOFF_SECONDS
            try:
                self._consume(consumer)
            except Exception as error:
                # Whatever it is, a stage must not stand still for it: there will be another consumer.
                _LOG.exception("member of %s", self._group)
                self._tell(translate(error, self._settings.servers))
            finally:
                with suppress(KafkaError):
                    consumer.close(autocommit=False, timeout_ms=_CLOSE_MS)
                self.lose(self._owned)

    def _open(self) -> KafkaConsumer:
        assignor = CooperativeStickyAssignor()
        consumer = connect(
            KafkaConsumer,
            self._settings,
            group_id=f"{self._settings.group_prefix}{self._group}",
            metrics_enabled=False,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            allow_auto_create_topics=False,
            partition_assignment_strategy=[assignor],
            session_timeout_ms=int(self._settings.session_timeout_seconds * 1000),
            heartbeat_interval_ms=int(self._settings.session_timeout_seconds * 1000 / 6),
            fetch_max_wait_ms=_FETCH_MS,
            max_partition_fetch_bytes=_FETCH_BYTES,
            fetch_max_bytes=4 * MAX_RECORD_BYTES,
        )
        try:
            there: set[str] = consumer.topics()
            for topic in self._topics:
                if topic not in there:
                    raise no_topic(topic, self._settings.servers)
            consumer.subscribe(self._topics, listener=_Listener(self, consumer, assignor))
        except BaseException:
            consumer.close(autocommit=False, timeout_ms=_CLOSE_MS)
            raise
        with self._changed:
            self.there = frozenset(there)
        return consumer

    def _consume(self, consumer: KafkaConsumer) -> None:
        """Poll and commit until closed, or until the consumer has failed for too long to go on with it."""
        failing_since: float | None = None
        committed_at, backoff = 0.0, _FIRST_BACKOFF_SECONDS
        while not self._closing.is_set():
            try:
                self._hold_back(consumer)
                for place, offset in self._take(consumer.poll(timeout_ms=_POLL_MS, max_records=_ALL)).items():
                    consumer.seek(place, offset)
                if time.monotonic() - committed_at >= self._settings.commit_seconds:
                    self._commit(consumer)
                    committed_at = time.monotonic()
            except (KafkaError, OSError) as error:
                # Joins and commits fail in passing ways while partitions are shared out anew.
                _LOG.info("member of %s: %s: %s", self._group, type(error).__name__, error)
                failing_since = failing_since or time.monotonic()
                seconds = time.monotonic() - failing_since
                if seconds > _PASSING_SECONDS:
                    self._tell(translate(error, self._settings.servers))
                if seconds > self._settings.session_timeout_seconds:
                    return
                self._closing.wait(backoff)
                backoff = min(2 * backoff, _LONGEST_BACKOFF_SECONDS)
            else:
                failing_since, backoff = None, _FIRST_BACKOFF_SECONDS
                self._tell(None)
        with suppress(KafkaError, OSError):
            self._commit(consumer)

    def _hold_back(self, consumer: KafkaConsumer) -> None:
        """Fetch those partitions whose window has room, and no others, also of those assigned a moment ago."""
        with self._changed:
            full = {TopicPartition(*place) for place, window in self.windows.items() if window.is_full()}
        assigned: set[TopicPartition] = consumer.assignment()
        paused: set[TopicPartition] = consumer.paused()
        if pause := (full & assigned) - paused:
            consumer.pause(*pause)
        if resume := (paused & assigned) - full:
            consumer.resume(*resume)

    def _take(self, fetched: Mapping[TopicPartition, list[Any]]) -> dict[TopicPartition, int]:
        """Take what there is room for; give the offsets from which the rest is to be fetched once more."""
        again: dict[TopicPartition, int] = {}
        if not fetched:
            return again
        with self._changed:
            for partition, records in fetched.items():
                place = (partition.topic, partition.partition)
                # What was fetched before the partition went away is somebody else's now.
                if place not in self._owned:
                    continue
                window = self.windows.setdefault(place, PartitionWindow(records[0].offset))
                if not all(window.add(_held(record)) for record in records):
                    again[partition] = window.next
            self._changed.notify_all()
        return again

    def _commit(self, consumer: KafkaConsumer) -> None:
        done = self.finished()
        if not done:
            return
        consumer.commit(_offsets(done), timeout_ms=_COMMIT_MS)
        with self._changed:
            for place, offset in done.items():
                if place in self.windows:
                    self.windows[place].committed = offset

    def _tell(self, trouble: HagdError | None) -> None:
        with self._changed:
            if (self.trouble is None) != (trouble is None):
                self._changed.notify_all()
            self.trouble = trouble


class _Listener(ConsumerRebalanceListener):
    """Hears of partitions that come and go. Called by a thread of the client, which must not be kept waiting."""

    def __init__(self, owner: GroupMember, consumer: KafkaConsumer, assignor: CooperativeStickyAssignor) -> None:
        self._owner, self._consumer, self._assignor = owner, consumer, assignor

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self._owner.gain((it.topic, it.partition) for it in assigned)

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        places = {(it.topic, it.partition) for it in revoked}
        done = {place: offset for place, offset in self._owner.finished().items() if place in places}
        self._owner.lose(places)
        if done:
            # Not waited for; if it comes to nothing, the next owner meets a few events that are done already.
            self._consumer.commit_async(_offsets(done))

    def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        self._owner.lose((it.topic, it.partition) for it in lost)
        # kafka-python 3.0 would go on telling the group that they are ours. Whoever is to have some of them then waits
        # until we give them up, which we cannot, and nobody works them off any more.
        self._assignor.member_assignment = None


def _offsets(done: Mapping[tuple[str, int], int]) -> dict[TopicPartition, OffsetAndMetadata]:
    return {TopicPartition(*place): OffsetAndMetadata(offset, "", -1) for place, offset in done.items()}


def _held(record: Any) -> Held:
    headers = tuple((name, value or b"") for name, value in record.headers)
    # Ours alone write to a retry topic; elsewhere anybody could keep a partition waiting for ever.
    own = dict(headers) if is_retry_topic(record.topic) else {}
    return Held(
        record.offset,
        record.value,
        record.timestamp / 1000,
        attempts=int(_number(own.get(ATTEMPTS_HEADER))),
        failures=int(_number(own.get(FAILURES_HEADER))),
        free_at=_number(own.get(NOT_BEFORE_HEADER)),
        traceparent=checked((dict(headers).get(HEADER) or b"").decode("ascii", "replace")),
        headers=tuple((name, value) for name, value in headers if name not in _OWN_HEADERS),
    )


def _number(text: bytes | None) -> float:
    """Read a number from a header; 0 when it is none, because anybody may have written it."""
    try:
        number = float(text or b"0")
    except ValueError:
        return 0.0
    return number if math.isfinite(number) else 0.0
