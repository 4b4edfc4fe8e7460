"""Long trainings are kept by the clock, short ones so many times."""

import itertools

import pytest

from hagd.errors import CancelledError
from hagd.testing import ManualClock, RecordingContext
from hagd_transcoder.corpus_dictionaries import make_plan
from hagd_transcoder.corpus_handlers import read_config
from hagd_transcoder.domain.corpus_training import train_on_corpus
from hagd_transcoder.domain.saving import SavePoints
from unit.hagd_transcoder.test_corpus_training import CONFIG, MODEL, corpus


def kept(steps: int, times: int, seconds_per_step: float) -> list[int]:
    clock = ManualClock()
    points, found = SavePoints.start(steps, times, clock.monotonic), list[int]()
    for step in range(steps):
        clock.advance(seconds_per_step)
        if points.is_due(step):
            found.append(step + 1)
    return found


def test_a_short_training_is_kept_as_often_as_asked_and_never_at_its_end() -> None:
    assert kept(20, 4, 1.0) == [5, 10, 15]
    assert kept(3, 10, 1.0) == [1, 2]
    assert kept(1, 10, 1.0) == []


def test_a_long_training_is_kept_when_five_minutes_have_passed_since_the_last_time() -> None:
    # At 700 s a step the count would let half a day pass.
    assert kept(100, 2, 700.0) == list(range(1, 100))
    # Every third step ends five minutes; the seventh is due by the count, and the clock begins anew there.
    assert kept(14, 2, 100.0) == [3, 6, 7, 10, 13]


@pytest.mark.parametrize(("steps", "times", "each"), [(20, 4, 1.0), (100, 2, 700.0), (1, 10, 1.0), (200, 2, 30.0)])
def test_what_is_expected_is_about_what_comes(steps: int, times: int, each: float) -> None:
    points = SavePoints.start(steps, times, ManualClock().monotonic)
    assert points.expected(steps * each) == pytest.approx(len(kept(steps, times, each)), abs=1)


def test_training_on_text_keeps_its_state_when_five_minutes_have_passed() -> None:
    plan = make_plan(read_config({**CONFIG, "checkpoints": 1}), MODEL, corpus())
    assert plan.steps > 5

    def kept_on_the_way(seconds: float) -> bool:
        """Train by a clock that goes on by so much whenever somebody looks."""
        context, moments = RecordingContext(cancel_after=4), itertools.count(0.0, seconds)
        with pytest.raises(CancelledError):
            train_on_corpus(MODEL, corpus().windows("train"), plan, context, clock=moments.__next__)
        return bool(context.checkpoints)

    assert [kept_on_the_way(seconds) for seconds in (1.0, 300.0)] == [False, True]
