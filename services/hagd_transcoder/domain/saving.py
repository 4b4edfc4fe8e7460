"""When the state of a training is kept: so many times on the way, and whenever five minutes have passed since."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

LONGEST_SECONDS: Final = 300.0
"""What a kill may cost, but for the step in which they end."""


@dataclass
class SavePoints:
    """The moments after steps, numbered from 0."""

    steps: int
    """Of the whole training; after the last one there is nothing to keep."""
    every: int
    """Steps after which it is kept in any case."""
    clock: Callable[[], float]
    kept: float
    """When it was kept last, or begun."""

    @staticmethod
    def start(steps: int, times: int, clock: Callable[[], float] = time.monotonic) -> "SavePoints":
        """Begin a training whose state is kept so many times, or more often if it takes long."""
        return SavePoints(steps, max(1, steps // times), clock, clock())

    def is_due(self, step: int) -> bool:
        """Say whether the state after a step is to be kept, and count on that it is."""
        if step + 1 >= self.steps:
            return False
        now = self.clock()
        due = (step + 1) % self.every == 0 or now - self.kept >= LONGEST_SECONDS
        if due:
            self.kept = now
        return due

    def expected(self, seconds: float) -> int:
        """Give how often a training of so many seconds is kept, about."""
        often = max((self.steps - 1) // self.every, int(seconds // LONGEST_SECONDS))
        return min(self.steps - 1, often)
