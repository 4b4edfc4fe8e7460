"""What goes on beside a computation: the lease is renewed, the claim extended, and somebody may cancel."""

import threading
from collections.abc import Callable
from types import TracebackType

from hagd.artifacts.leases import Lease, LeaseTable
from hagd.errors import HagdError

_LOOK_SECONDS = 0.5


class LeaseKeeper:
    """A context in which a lease is kept alive by a thread of its own."""

    def __init__(
        self, leases: LeaseTable, lease: Lease, extend: Callable[[], object], is_cancelled: Callable[[], bool]
    ) -> None:
        self.lease = lease
        """As it was last renewed; what to release afterwards."""
        self._leases, self._extend, self._is_cancelled = leases, extend, is_cancelled
        self._ended, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease-keeper", daemon=True)

    def should_stop(self) -> bool:
        """Say whether the work is in vain: the run was cancelled, or the lease went to somebody else."""
        return self._stop.is_set()

    def __enter__(self) -> "LeaseKeeper":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _keep(self) -> None:
        looks, renewal = 0, max(1, int(self._leases.time_to_live_seconds / 3 / _LOOK_SECONDS))
        while not self._ended.wait(_LOOK_SECONDS):
            looks += 1
            try:
                if self._is_cancelled() or (looks % renewal == 0 and not self._renew()):
                    self._stop.set()
                    return
            except HagdError:
                # An outage of store or log: the work goes on, and the next look may find them back.
                continue

    def _renew(self) -> bool:
        renewed = self._leases.renew(self.lease)
        if renewed is None:
            return False
        self.lease = renewed
        # A claim that went to somebody else, as when partitions are shared out anew, ends nothing: whoever has it meets
        # our lease and waits for our result.
        self._extend()
        return True
