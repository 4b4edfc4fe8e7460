"""The arithmetic of offsets: what is committed, what may be claimed, when fetching stops."""

from hypothesis import given
from hypothesis import strategies as st

from hagd.events.kafka.window import READY_EVENTS, WINDOW_OFFSETS, Held, PartitionWindow


def window(*offsets: int, start: int = 0) -> PartitionWindow:
    made = PartitionWindow(start)
    for offset in offsets:
        made.add(Held(offset, b"x", float(offset)))
    return made


def take(made: PartitionWindow, now: float = 0.0) -> Held:
    held = made.oldest(now)
    assert held is not None
    made.take(held, now + 60)
    return held


def test_an_empty_window_commits_nothing_beyond_where_it_started() -> None:
    assert window(start=7).lowest() == 7


def test_what_is_committed_is_the_lowest_offset_that_is_not_done() -> None:
    made = window(3, 4, 5, start=3)
    first, second, third = take(made), take(made), take(made)
    made.finish(third)
    assert made.lowest() == 3
    made.finish(first)
    assert made.lowest() == 4
    made.finish(second)
    assert made.lowest() == 6


def test_gaps_between_offsets_are_passed_over() -> None:
    made = window(3, 11, start=3)
    made.finish(take(made))
    assert made.lowest() == 11
    made.finish(take(made))
    assert made.lowest() == 12


def test_an_offset_that_was_fetched_twice_is_there_once() -> None:
    made = window(0, 1)
    made.finish(take(made))
    made.add(Held(0, b"x", 0.0))
    assert made.lowest() == 1


def test_only_the_latest_claim_holds_an_event_and_only_until_it_is_done() -> None:
    made = window(0)
    first = take(made).claim
    second = take(made, now=60.0)
    assert made.holder(0, first) is None
    assert made.holder(0, second.claim) is second
    made.finish(second)
    assert made.holder(0, second.claim) is None


def test_an_event_that_was_given_back_waits_for_its_time_and_others_pass_it() -> None:
    made = window(0, 1)
    made.give_back(take(made), free_at=5.0)
    assert take(made, now=4.0).offset == 1
    assert take(made, now=5.0).offset == 0


def test_fetching_stops_when_many_events_wait_and_goes_on_when_they_were_claimed() -> None:
    made = window(*range(READY_EVENTS))
    assert made.is_full()
    take(made)
    assert not made.is_full()


def test_a_window_takes_no_more_than_its_bound_and_says_where_to_go_on() -> None:
    made = window()
    for offset in range(WINDOW_OFFSETS):
        assert not made.is_full()
        assert made.add(Held(offset, b"x", 0.0))
        held = take(made)
        if offset:
            made.finish(held)
    assert made.is_full()
    assert not made.add(Held(WINDOW_OFFSETS, b"x", 0.0))
    assert made.next == WINDOW_OFFSETS
    made.finish(next(iter(made._held.values())))
    assert not made.is_full()
    assert made.add(Held(WINDOW_OFFSETS, b"x", 0.0))


def test_an_empty_window_has_room_however_far_the_next_offset_is() -> None:
    made = window()
    assert made.add(Held(WINDOW_OFFSETS * 3, b"x", 0.0))
    assert not made.add(Held(WINDOW_OFFSETS * 4, b"x", 0.0))


@given(st.lists(st.integers(0, 30), unique=True, min_size=1), st.data())
def test_an_offset_is_committed_only_when_all_before_it_are_done(offsets: list[int], data: st.DataObject) -> None:
    offsets.sort()
    made = window(*offsets)
    held = {it.offset: it for it in [take(made) for _ in offsets]}
    done: set[int] = set()
    committed = 0
    for offset in data.draw(st.permutations(offsets)):
        made.finish(held[offset])
        done.add(offset)
        lowest = made.lowest()
        assert lowest >= committed
        assert all(it in done for it in offsets if it < lowest)
        assert lowest not in done
        committed = lowest
    assert committed == offsets[-1] + 1
