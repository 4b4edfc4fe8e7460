"""The port of the event log: topics that are worked off by claims, and read from the start by observers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from hagd.events.envelope import Envelope

Position = Mapping[int, int]
"""Where an observer of a topic stands: the next offset of each partition. One that is not named is read from 0."""
START: Final[Position] = {}
ReadRecord = Callable[[Sequence[tuple[str, bytes]], bytes], Envelope]
"""Turns headers and value of a record that another system may have written into an event.

It raises InvalidInputError for what is none, and UnservedVersionError for what a newer reader will understand; another
error of ours says that what it asks for is refused.
"""


@dataclass(frozen=True)
class Record:
    """An event at its place in a topic."""

    offset: int
    """Grows within a partition."""
    topic: str
    envelope: Envelope
    partition: int = 0
    """Always 0 in a log without partitions."""
    at: float = 0.0
    """When it was appended, in seconds since the epoch; 0 where the log does not know."""


@dataclass(frozen=True)
class UnreadableRecord:
    """What was sent to a topic of work and was put away, because it is no event or is refused."""

    source: str
    """Where it lay: topic, partition and offset."""
    reason: str
    value: bytes
    """As it came; the start of one that was too large."""
    headers: Sequence[tuple[str, bytes]]
    """Those that its writer gave it; not the long ones."""
    at: float
    """When it was put away, in seconds since the epoch."""


def advance(position: Position, records: Iterable[Record]) -> Position:
    """Give where an observer stands once it has read some more records of the same topic."""
    following = dict(position)
    for record in records:
        following[record.partition] = max(following.get(record.partition, 0), record.offset + 1)
    return following


@dataclass(frozen=True)
class Delivery:
    """A claimed event: it belongs to the claimer until `ack`, `release`, or the claim runs out."""

    record: Record
    claim: str
    """Names this claim; a later claim of the same event has another name."""
    attempts: int
    """How often the event has been claimed, this time included."""
    failures: int = 0
    """How often it was released as failed."""

    @property
    def envelope(self) -> Envelope:
        return self.record.envelope


class EventLog(Protocol):
    """A durable log. Every method is safe to call from several threads."""

    def append(self, topic: str, envelope: Envelope) -> bool:
        """Write an event, durable on return; False when the log can tell that the topic holds one of that id already.

        A log that cannot tell writes it once more and gives True: consumers tell events apart by id.

        Raises:
            InvalidInputError: the event is too large.
            StoreFullError: no room.
            UnavailableError: the log does not answer.
        """
        ...

    def claim(self, topics: Sequence[str], seconds: float) -> Delivery | None:
        """Take the oldest event that nobody holds, for `seconds`, from the first of `topics` that has one; else None.

        A log with partitions keeps order within each of them. One over a network may wait a moment for an event.

        Raises:
            UnavailableError: the log does not answer, or there is no such topic.
        """
        ...

    def ack(self, delivery: Delivery) -> bool:
        """Finish with an event; False when the claim had run out and somebody else took it.

        A log over a network may forget this in a crash, and then gives the event to somebody once more.
        """
        ...

    def release(self, delivery: Delivery, delay_seconds: float = 0.0, *, failed: bool = False) -> bool:
        """Give an event back, to be claimed again after the delay; False as for `ack`.

        `failed` counts it as a failure of the event, and not as a wait for something else.
        """
        ...

    def extend(self, delivery: Delivery, seconds: float) -> bool:
        """Hold an event for `seconds` from now; False as for `ack`."""
        ...

    def read(self, topic: str, position: Position = START, limit: int = 1000) -> list[Record]:
        """Give at most `limit` events of a topic from `position` on, worked off or not; claims nothing.

        `advance` gives where to go on; an empty list says that there are no more for now.
        """
        ...

    def waiting(self, topics: Sequence[str], limit: int = 1000) -> list[Record]:
        """Give at most `limit` events of `topics` that nobody has finished, claimed or not, oldest first.

        A log with partitions tells of those that this process works off and has fetched; of topics that others work
        off, also of some events that were finished out of turn.
        """
        ...

    def unreadable(self, topic: str, limit: int = 1000) -> list[UnreadableRecord]:
        """Give at most `limit` of what was sent to a topic of work and put away, oldest first; none in most logs.

        Only to a log over a network do others write.

        Raises:
            UnavailableError: the log does not answer.
        """
        ...

    def close(self) -> None:
        """Stop; later calls raise UnavailableError."""
        ...
