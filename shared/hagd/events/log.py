"""The port of the event log: topics that are worked off by claims, and read from the start by observers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from hagd.events.envelope import Envelope


@dataclass(frozen=True)
class Record:
    """An event at its place in a topic."""

    offset: int
    topic: str
    envelope: Envelope


@dataclass(frozen=True)
class Delivery:
    """A claimed event: it belongs to the claimer until `ack`, `release`, or the claim runs out."""

    record: Record
    claim: str
    """Names this claim; a later claim of the same event has another name."""
    attempts: int
    """How often the event has been claimed, this time included."""

    @property
    def envelope(self) -> Envelope:
        return self.record.envelope


class EventLog(Protocol):
    """A durable log. Every method is safe to call from several threads."""

    def append(self, topic: str, envelope: Envelope) -> bool:
        """Write an event, durable on return; False when the topic holds one of that id already.

        Raises:
            StoreFullError: no room.
            UnavailableError: the log does not answer.
        """
        ...

    def claim(self, topics: Sequence[str], seconds: float) -> Delivery | None:
        """Take the oldest event of `topics` that nobody holds, for `seconds`; None when there is none."""
        ...

    def ack(self, delivery: Delivery) -> bool:
        """Finish with an event; False when the claim had run out and somebody else took it."""
        ...

    def release(self, delivery: Delivery, delay_seconds: float = 0.0) -> bool:
        """Give an event back, to be claimed again after the delay; False as for `ack`."""
        ...

    def extend(self, delivery: Delivery, seconds: float) -> bool:
        """Hold an event for `seconds` from now; False as for `ack`."""
        ...

    def read(self, topic: str, offset: int = 0, limit: int = 1000) -> list[Record]:
        """Give events of a topic from `offset` on, worked off or not; claims nothing."""
        ...

    def close(self) -> None:
        """Stop; later calls raise UnavailableError."""
        ...
