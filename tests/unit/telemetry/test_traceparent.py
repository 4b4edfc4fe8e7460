"""Trace contexts: what counts as one, and that a request without one has the trace of its run."""

import pytest

from hagd.telemetry.traceparent import checked, of_run, trace_id_of

GOOD = f"00-{'ab' * 16}-{'cd' * 8}-01"


def test_a_trace_context_is_taken_as_it_is() -> None:
    assert checked(GOOD) == GOOD
    assert trace_id_of(GOOD) == "ab" * 16


@pytest.mark.parametrize(
    "text",
    ["", "x", None, 7, GOOD.upper(), GOOD + "-00", f"00-{'0' * 32}-{'cd' * 8}-01", f"00-{'ab' * 16}-{'0' * 16}-01"],
)
def test_what_is_none_is_taken_for_none(text: object) -> None:
    assert checked(text) == ""
    assert trace_id_of(str(text)) == ""


def test_a_run_has_a_trace_of_its_own_and_always_the_same() -> None:
    assert checked(of_run("one")) == of_run("one")
    assert trace_id_of(of_run("one")) != trace_id_of(of_run("two"))
