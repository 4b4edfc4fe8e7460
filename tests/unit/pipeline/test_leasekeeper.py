"""What ends a computation from beside, and what does not."""

import time
from collections.abc import Callable

import pytest

from hagd.artifacts.leases import LeaseTable, Owner
from hagd.errors import UnavailableError
from hagd.pipeline.leasekeeper import LeaseKeeper
from hagd.testing import ManualClock, MemoryStore

KEY = "ab" * 32
LOOKS = 7
"""So many are waited for where nothing is to happen."""


@pytest.fixture(autouse=True)
def short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hagd.pipeline.leasekeeper._LOOK_SECONDS", 0.01)


class Kept:
    """A lease that is kept, and what the keeper asks."""

    def __init__(self) -> None:
        self.store, self.clock = MemoryStore(), ManualClock()
        self.leases = self.table("me")
        self.looks, self.cancelled = 0, False

    def table(self, owner: str) -> LeaseTable:
        # Short enough to be renewed at every look.
        return LeaseTable(self.store, self.clock, Owner(owner), time_to_live_seconds=0.03, ended=lambda _: False)

    def keeper(self, extend: Callable[[], object]) -> LeaseKeeper:
        lease = self.leases.acquire(KEY)
        assert lease is not None
        return LeaseKeeper(self.leases, lease, extend, self.look)

    def look(self) -> bool:
        self.looks += 1
        return self.cancelled


def wait_until(said: Callable[[], bool]) -> None:
    for _ in range(1000):
        if said():
            return
        time.sleep(0.01)
    raise AssertionError("waited in vain")


def unavailable() -> bool:
    raise UnavailableError("the log does not answer")


@pytest.mark.parametrize("extend", [lambda: True, lambda: False, unavailable], ids=["held", "lost", "outage"])
def test_work_goes_on_whatever_becomes_of_the_claim(extend: Callable[[], object]) -> None:
    kept = Kept()
    with kept.keeper(extend) as keeper:
        wait_until(lambda: kept.looks > LOOKS)
        assert not keeper.should_stop()
    assert keeper.lease.beat >= LOOKS
    assert kept.leases.release(keeper.lease)


def test_work_stops_when_somebody_else_has_the_lease() -> None:
    kept = Kept()
    with kept.keeper(lambda: True) as keeper:
        other, taken = kept.table("other"), None
        while taken is None:
            # Seen unchanged for its time to live, which happens between two beats when the keeper is stopped.
            kept.clock.advance(1.0)
            taken = other.acquire(KEY)
        wait_until(keeper.should_stop)
    assert not kept.leases.release(keeper.lease)


def test_work_stops_when_its_run_is_cancelled() -> None:
    kept = Kept()
    with kept.keeper(lambda: True) as keeper:
        kept.cancelled = True
        wait_until(keeper.should_stop)
