"""Time as leases and claims see it, injected so that tests can move it by hand."""

import time
from typing import Protocol


class Clock(Protocol):
    """Two readings of time, both in seconds."""

    def now(self) -> float:
        """Seconds since the epoch; comparable between processes, may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment; never jumps, comparable in this process only."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class SystemClock:
    """The clock of this machine."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
