"""Fakes of everything that the runtime talks to, public so that stages and services outside can be tested with them."""

import hashlib
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hagd.artifacts.clock import Clock
from hagd.artifacts.document import Document
from hagd.artifacts.reference import ArtifactRef
from hagd.artifacts.store import Pieces, StoredObject
from hagd.errors import ArtifactNotFoundError, CancelledError, CorruptArtifactError
from hagd.events.envelope import Envelope
from hagd.events.log import START, Delivery, Position, Record, UnreadableRecord
from hagd.telemetry.metrics import Metric

__all__ = ["ManualClock", "MemoryEventLog", "MemoryStore", "RecordingContext", "RecordingMeter"]


@dataclass
class ManualClock:
    """A clock that moves only when told to, or when somebody sleeps on it."""

    seconds: float = 0.0

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.seconds += seconds


@dataclass
class MemoryStore:
    """An `ArtifactStore` in memory."""

    blobs: dict[str, bytes] = field(default_factory=dict[str, bytes])
    """By digest; tests damage an artifact by writing here."""
    objects: dict[str, bytes] = field(default_factory=dict[str, bytes])
    clock: Clock = field(default_factory=ManualClock)
    """Says when a blob is put."""
    _put_at: dict[str, float] = field(default_factory=dict[str, float])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def location(self) -> str:
        return "memory:"

    def put_blob(self, data: bytes | Pieces, media_type: str) -> ArtifactRef:
        whole = data if isinstance(data, bytes) else b"".join(data())
        digest = hashlib.sha256(whole).hexdigest()
        self.blobs[digest], self._put_at[digest] = whole, self.clock.now()
        return ArtifactRef(digest, len(whole), media_type)

    def get_blob(self, ref: ArtifactRef) -> bytes:
        if ref.sha256 not in self.blobs:
            raise ArtifactNotFoundError(f"artifact {ref.sha256[:12]} is not in the store", "compute it again")
        if not self.check_blob(ref):
            raise CorruptArtifactError(f"artifact {ref.sha256[:12]} does not match its digest", "compute it again")
        return self.blobs[ref.sha256]

    def stream_blob(self, ref: ArtifactRef) -> Iterator[bytes]:
        yield self.get_blob(ref)

    def has_blob(self, ref: ArtifactRef) -> bool:
        return len(self.blobs.get(ref.sha256, b"")) == ref.bytes and ref.sha256 in self.blobs

    def check_blob(self, ref: ArtifactRef) -> bool:
        return self.has_blob(ref) and hashlib.sha256(self.blobs[ref.sha256]).hexdigest() == ref.sha256

    def delete_blob(self, ref: ArtifactRef) -> None:
        self.blobs.pop(ref.sha256, None)

    def blob_put_at(self, ref: ArtifactRef) -> float | None:
        return self._put_at[ref.sha256] if ref.sha256 in self.blobs else None

    def list_blobs(self) -> Iterator[tuple[str, int]]:
        yield from [(digest, len(data)) for digest, data in self.blobs.items()]

    def read(self, key: str) -> StoredObject | None:
        data = self.objects.get(key)
        return None if data is None else StoredObject(data, hashlib.sha256(data).hexdigest())

    def put_if_absent(self, key: str, data: bytes) -> str | None:
        return self._write_if(key, data, None)

    def replace(self, key: str, data: bytes, etag: str) -> str | None:
        return self._write_if(key, data, etag)

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    def list(self, prefix: str) -> list[str]:
        return sorted(key for key in self.objects if key.startswith(prefix))

    def folders(self, folder: str, after: str = "", limit: int | None = None) -> tuple[str, ...]:
        inside = [key.removeprefix(f"{folder}/") for key in self.objects if key.startswith(f"{folder}/")]
        names = sorted({f"{name}/" for name, slash, _ in (key.partition("/") for key in inside) if slash})
        return tuple(name[:-1] for name in [it for it in names if not after or it > f"{after}/"][:limit])

    def _write_if(self, key: str, data: bytes, etag: str | None) -> str | None:
        with self._lock:
            there = self.read(key)
            if (there.etag if there else None) != etag:
                return None
            self.objects[key] = data
            return hashlib.sha256(data).hexdigest()


@dataclass
class _Entry:
    record: Record
    done: bool = False
    claim: str = ""
    free_at: float = 0.0
    attempts: int = 0
    failures: int = 0


@dataclass
class MemoryEventLog:
    """An `EventLog` in memory."""

    clock: Clock = field(default_factory=ManualClock)
    tells_repeats: bool = True
    """Whether it knows an id that the topic holds already, as a log in one file does, and one with partitions not."""
    _entries: list[_Entry] = field(default_factory=list[_Entry])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def append(self, topic: str, envelope: Envelope) -> bool:
        envelope = Envelope.decode(envelope.encode())
        with self._lock:
            known = ((entry.record.topic, entry.record.envelope.id) for entry in self._entries)
            if self.tells_repeats and (topic, envelope.id) in known:
                return False
            self._entries.append(_Entry(Record(len(self._entries) + 1, topic, envelope, at=self.clock.now())))
            return True

    def claim(self, topics: Sequence[str], seconds: float) -> Delivery | None:
        with self._lock:
            now = self.clock.now()
            free = [entry for entry in self._entries if not entry.done and entry.free_at <= now]
            for topic in topics:
                for entry in free:
                    if entry.record.topic == topic:
                        entry.claim, entry.free_at = secrets.token_hex(16), now + seconds
                        entry.attempts += 1
                        return Delivery(entry.record, entry.claim, entry.attempts, entry.failures)
            return None

    def ack(self, delivery: Delivery) -> bool:
        with self._lock:
            entry = self._held(delivery)
            if entry is not None:
                entry.done, entry.claim = True, ""
            return entry is not None

    def release(self, delivery: Delivery, delay_seconds: float = 0.0, *, failed: bool = False) -> bool:
        with self._lock:
            entry = self._held(delivery)
            if entry is not None:
                entry.claim, entry.free_at = "", self.clock.now() + delay_seconds
                entry.failures += failed
            return entry is not None

    def extend(self, delivery: Delivery, seconds: float) -> bool:
        with self._lock:
            entry = self._held(delivery)
            if entry is not None:
                entry.free_at = self.clock.now() + seconds
            return entry is not None

    def drop_claims(self) -> None:
        """Let go of every claim, as a log does whose partitions go to others: the events may be claimed at once."""
        with self._lock:
            for entry in self._entries:
                if entry.claim:
                    entry.claim, entry.free_at = "", self.clock.now()

    def read(self, topic: str, position: Position = START, limit: int = 1000) -> list[Record]:
        with self._lock:
            records = [entry.record for entry in self._entries]
        return [record for record in records if record.topic == topic and record.offset >= position.get(0, 0)][:limit]

    def waiting(self, topics: Sequence[str], limit: int = 1000) -> list[Record]:
        with self._lock:
            return [it.record for it in self._entries if not it.done and it.record.topic in topics][:limit]

    def unreadable(self, topic: str, limit: int = 1000) -> list[UnreadableRecord]:  # noqa: ARG002
        return []

    def close(self) -> None:
        """Nothing to close."""

    def _held(self, delivery: Delivery) -> _Entry | None:
        entry = self._entries[delivery.record.offset - 1]
        return entry if entry.claim == delivery.claim and not entry.done else None


@dataclass
class RecordingContext:
    """A `StageContext` that keeps what a stage did with it."""

    cancel_after: int | None = None
    """Raise CancelledError at the call of `progress` after this many."""
    reports: list[tuple[float, float, str]] = field(default_factory=list[tuple[float, float, str]])
    checkpoints: dict[int, Document] = field(default_factory=dict[int, Document])
    scratch: Path = field(default_factory=lambda: Path(tempfile.gettempdir()))
    place: str = "cpu"
    """Where the stage is to compute, whatever its rank."""

    def progress(self, done: float, total: float, message: str) -> None:
        if self.cancel_after is not None and len(self.reports) >= self.cancel_after:
            raise CancelledError("the stage was stopped", "issue the same command to go on")
        self.reports.append((done, total, message))

    def save_checkpoint(self, step: int, state: Document) -> None:
        self.checkpoints[step] = replace(Document.decode(state.encode()))

    def load_checkpoint(self) -> tuple[int, Document] | None:
        step = max(self.checkpoints, default=None)
        return None if step is None else (step, self.checkpoints[step])

    def scratch_folder(self) -> Path:
        return self.scratch

    def device(self, rank: int = 0, world_size: int = 1) -> str:
        del rank, world_size
        return self.place


@dataclass
class RecordingMeter:
    """A `Meter` that keeps sums of counters and histograms and the last values of gauges."""

    values: dict[tuple[str, ...], float] = field(default_factory=dict[tuple[str, ...], float])
    """By the name of the metric and the values of its labels."""
    questions: dict[tuple[str, ...], Callable[[], float]] = field(
        default_factory=dict[tuple[str, ...], Callable[[], float]]
    )

    def add(self, metric: Metric, amount: float = 1.0, **labels: str) -> None:
        key = self._key(metric, labels)
        self.values[key] = self.values.get(key, 0.0) + amount

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        self.add(metric, value, **labels)

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        self.values[self._key(metric, labels)] = value

    def ask(self, metric: Metric, question: Callable[[], float], **labels: str) -> None:
        self.questions[self._key(metric, labels)] = question

    def _key(self, metric: Metric, labels: Mapping[str, str]) -> tuple[str, ...]:
        return (metric.name, *(labels[name] for name in metric.labels))
