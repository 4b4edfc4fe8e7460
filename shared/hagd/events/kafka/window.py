"""The offsets of one partition beyond the committed one: which are held, by which claim, and up to where to commit.

Events are finished in any order, while Kafka keeps one number per partition: all before it is done. So that number is
the lowest offset that is not finished, and what lies beyond it is remembered here, 256 offsets at most. Not safe to
use from several threads.
"""

import secrets
from dataclasses import dataclass, field
from typing import Final

WINDOW_OFFSETS: Final = 256
"""Offsets held beyond the committed one."""
READY_EVENTS: Final = 64
"""So many events that wait to be claimed are enough: no more are fetched, beside those that came with the last."""


@dataclass
class Held:
    """One offset of the window."""

    offset: int
    value: bytes | None
    timestamp: float
    """When it was appended, in seconds since the epoch."""
    attempts: int = 0
    """How often it has been claimed, through other topics and by other processes as far as they told."""
    failures: int = 0
    """How often it was released as failed, told in the same way."""
    free_at: float = 0.0
    """In seconds since the epoch: from then on it may be claimed."""
    claim: str = ""
    done: bool = False
    traceparent: str = ""
    """The trace that its header names, or empty."""
    headers: tuple[tuple[str, bytes], ...] = ()
    """What its writer put beside it, and what goes along to a retry topic."""


@dataclass
class PartitionWindow:
    """What is known of one partition while it is ours."""

    committed: int
    """All before this offset is done, as far as Kafka knows."""
    next: int = field(init=False)
    """The offset that comes next."""
    _held: dict[int, Held] = field(default_factory=dict[int, Held], init=False)
    """In the order of offsets."""

    def __post_init__(self) -> None:
        self.next = self.committed

    def add(self, held: Held) -> bool:
        """Take in a fetched event, and give False when it finds no room; one that was seen before changes nothing.

        Offsets may have gaps, so an empty window has room for any.
        """
        if held.offset < self.next:
            return True
        if held.offset - self.lowest() >= WINDOW_OFFSETS and self._held:
            return False
        self._held[held.offset] = held
        self.next = held.offset + 1
        return True

    def is_full(self) -> bool:
        """Say whether there is no room for another offset, or enough events wait to be claimed."""
        waiting = sum(held.attempts == 0 for held in self._held.values())
        return self.next - self.lowest() >= WINDOW_OFFSETS or waiting >= READY_EVENTS

    def lowest(self) -> int:
        """Give the lowest offset that is not done: what to commit. Forgets what lies before it."""
        for offset, held in list(self._held.items()):
            if not held.done:
                return offset
            del self._held[offset]
        return self.next

    def oldest(self, now: float) -> Held | None:
        """Give the event of the lowest offset that may be claimed, or None."""
        return next((held for held in self._held.values() if not held.done and held.free_at <= now), None)

    def unfinished(self) -> list[Held]:
        """Give the fetched events that are not done, in the order of offsets."""
        return [held for held in self._held.values() if not held.done]

    def holder(self, offset: int, claim: str) -> Held | None:
        """Give the event that a claim holds, or None when it has lost it."""
        held = self._held.get(offset)
        return held if held is not None and held.claim == claim and not held.done else None

    @staticmethod
    def take(held: Held, until: float) -> str:
        """Claim an event; give the name of the claim."""
        held.claim, held.free_at = secrets.token_hex(16), until
        held.attempts += 1
        return held.claim

    @staticmethod
    def give_back(held: Held, free_at: float) -> None:
        """End a claim; the event may be claimed again at a time."""
        held.claim, held.free_at = "", free_at

    @staticmethod
    def finish(held: Held) -> None:
        """End a claim; the event is done, and its bytes are not needed any more."""
        held.claim, held.value, held.done = "", None, True
