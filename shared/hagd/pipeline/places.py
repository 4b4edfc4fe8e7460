"""The places of a process: how many tasks may be at work in it at once, however many loops and stages it has.

There are more loops than places, so that results that are there are passed on while all places are taken, and so that
a worker has its next task while the result of its last one is still being announced.
"""

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Literal

_LOOK_SECONDS: Final = 1.0


@dataclass
class Place:
    """What a task was given, or not."""

    when: Literal["at once", "late", "never"]
    """Whether it took a wait, or came to nothing because whoever was asked meanwhile said no."""
    _free: threading.Semaphore | None = field(default=None, repr=False)

    def leave(self) -> None:
        """Let the next task have the place; quiet when it was left before."""
        free, self._free = self._free, None
        if free is not None:
            free.release()


@dataclass(frozen=True)
class Places:
    """Shared by the loops that share an executor."""

    free: threading.Semaphore | None = None
    """As many as there are places; None: every loop has one."""

    @contextmanager
    def taken(self, hold: Callable[[], bool]) -> Generator[Place]:
        """Hold a place at most until the end of the context; `hold` is asked while it waits for one."""
        free = self.free
        if free is None:
            yield Place("at once")
            return
        late = not free.acquire(blocking=False)
        while late and not free.acquire(timeout=_LOOK_SECONDS):
            if not hold():
                yield Place("never")
                return
        place = Place("late" if late else "at once", free)
        try:
            yield place
        finally:
            place.leave()
