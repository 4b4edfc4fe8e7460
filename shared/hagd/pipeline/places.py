"""The places of a stage: how many of its tasks may be at work at once in one process, however many loops it has.

There are more loops than places, so that results that are there are passed on while all places are taken.
"""

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

_LOOK_SECONDS: Final = 1.0


@dataclass(frozen=True)
class Places:
    """Shared by the loops of a stage."""

    free: threading.Semaphore | None = None
    """As many as there are places; None: every loop has one."""

    @contextmanager
    def taken(self, hold: Callable[[], bool]) -> Generator[Literal["at once", "late", "never"]]:
        """Hold a place; gives whether that took a wait, or came to nothing because `hold`, asked meanwhile, said no."""
        free = self.free
        if free is None:
            yield "at once"
            return
        late = not free.acquire(blocking=False)
        while late and not free.acquire(timeout=_LOOK_SECONDS):
            if not hold():
                yield "never"
                return
        try:
            yield "late" if late else "at once"
        finally:
            free.release()
