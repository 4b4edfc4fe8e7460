"""Leases: one computation per key, taken over by an observer's own clock."""

from dataclasses import replace

from hagd.artifacts.leases import NOBODY, Lease, LeaseTable, Owner, has_ended, this_process
from hagd.testing import ManualClock, MemoryStore

KEY = "cd" * 32


def table(store: MemoryStore, clock: ManualClock, name: str, ended: bool = False) -> LeaseTable:
    return LeaseTable(store, clock, Owner(name), 30.0, lambda _: ended)


def acquired(table: LeaseTable) -> Lease:
    lease = table.acquire(KEY)
    assert lease is not None
    return lease


def test_a_second_owner_waits_while_the_first_renews() -> None:
    store, clock = MemoryStore(), ManualClock()
    holder, observer = table(store, clock, "a"), table(store, clock, "b")
    lease = acquired(holder)
    assert (lease.epoch, lease.attempts) == (1, 0)
    for _ in range(7):
        assert observer.acquire(KEY) is None
        clock.advance(29)
        lease = holder.renew(lease)
        assert lease is not None


def test_a_lease_unchanged_for_its_whole_time_is_taken_over_and_the_loss_is_counted() -> None:
    store, clock = MemoryStore(), ManualClock()
    holder, observer = table(store, clock, "a"), table(store, clock, "b")
    lost = acquired(holder)
    clock.advance(1000)
    # The first look only starts the observer's own clock.
    assert observer.acquire(KEY) is None
    clock.advance(29.9)
    assert observer.acquire(KEY) is None
    clock.advance(0.1)
    taken = acquired(observer)
    assert (taken.epoch, taken.attempts) == (2, 1)
    assert holder.renew(lost) is None
    assert not holder.release(lost)


def test_the_process_known_to_have_ended_is_not_waited_for_and_not_blamed() -> None:
    store, clock = MemoryStore(), ManualClock()
    acquired(table(store, clock, "a"))
    taken = acquired(table(store, clock, "b", ended=True))
    assert (taken.epoch, taken.attempts) == (2, 0)


def test_a_released_lease_is_free_at_once_and_remembers_deaths_until_forgiven() -> None:
    store, clock = MemoryStore(), ManualClock()
    leases = table(store, clock, "a")
    assert leases.release(acquired(leases), worker_died=True)
    assert leases.release(acquired(leases), worker_died=True)
    third = acquired(leases)
    assert (third.epoch, third.attempts) == (3, 2)
    assert leases.forgive(third)
    there = leases.read(KEY)
    assert there is not None
    assert (there.owner, there.attempts) == (NOBODY, 0)


def test_a_damaged_lease_belongs_to_nobody_and_was_somebody_s() -> None:
    store, clock = MemoryStore(), ManualClock()
    leases = table(store, clock, "a")
    acquired(leases)
    store.objects = dict.fromkeys(store.objects, b"?")
    taken = acquired(leases)
    assert (taken.epoch, taken.is_first) == (2, False)


def test_only_a_process_of_this_machine_can_be_known_to_have_ended() -> None:
    me = this_process()
    assert not has_ended(me)
    assert has_ended(replace(me, started=me.started - 100))
    assert has_ended(replace(me, pid=2**22 + 1))
    assert not has_ended(replace(me, pid=2**22 + 1, host="elsewhere"))
