"""The rule as a table: one row per way to fall short."""

from dataclasses import replace

import pytest

from hagd_verification.domain.statistics import Interval
from hagd_verification.domain.verdict import Claimability, ControlOutcome, Evidence, decide

GOOD = Evidence(
    claimability=Claimability(1.0, 0.99, Interval(5, 4, 6)),
    preserved=Interval(0.97, 0.95, 0.99),
    matched_p=0.001,
    equivalence_p=0.001,
    n_prompts=600,
    feature_share=Interval(0.9, 0.85, 0.95),
    error_credit=Interval(0.01, -0.01, 0.03),
    n_unexplained=0,
    controls=(ControlOutcome("node scores permuted", "refuted", "refuted"),),
)
WRONG_CONTROL = (ControlOutcome("random weights", "verified", "no claim"),)
LOW = Interval(0.85, 0.8, 0.9)


@pytest.mark.parametrize(
    ("change", "verdict", "scope", "reason"),
    [
        ({}, "verified", "feature-level", None),
        ({"preserved": LOW}, "verified", "feature-level", None),
        ({"equivalence_p": 0.2}, "verified", "feature-level", None),
        ({"equivalence_p": None}, "verified", "feature-level", None),
        ({"preserved": LOW, "equivalence_p": 0.2}, "refuted", None, "lower bound of preservation is 0.800"),
        ({"preserved": LOW, "n_prompts": 199}, "refuted", None, "lower bound of preservation is 0.800"),
        ({"preserved": Interval(0.95, 0.9, 1.0), "equivalence_p": 0.2}, "refuted", None, "not above 0.9"),
        ({"matched_p": 0.01}, "verified", "feature-level", None),
        ({"matched_p": 0.011}, "refuted", None, "matched random circuits are not excluded (p = 0.011, allowed 0.01)"),
        ({"matched_p": None}, "refuted", None, "cannot differ"),
        ({"feature_share": None}, "verified", "component-level", "holds no features"),
        ({"feature_share": Interval(0.1, 0.0, 0.2)}, "verified", "component-level", "reaches 0.000"),
        ({"error_credit": Interval(0.08, 0.05, 0.1)}, "verified", "component-level", "error credit reaches 0.100"),
        ({"n_unexplained": 3}, "verified", "component-level", "3 whole blocks in the circuit stay unexplained"),
        ({"error_credit": None}, "verified", "component-level", "any value"),
        ({"controls": WRONG_CONTROL}, "no claim", None, "'random weights' came out 'verified', expected 'no claim'"),
        (
            {"claimability": Claimability(0.5, 0.99, Interval(5, 4, 6))},
            "no claim",
            None,
            "the model answers 0.500 rightly, below 0.99",
        ),
        (
            {"claimability": Claimability(1.0, 0.99, Interval(0.1, -0.1, 0.3))},
            "no claim",
            None,
            "does not exceed the empty circuit's (gap 0.1)",
        ),
    ],
)
def test_the_verdict_follows_the_rule(change: dict, verdict: str, scope: str | None, reason: str | None) -> None:
    found = decide(replace(GOOD, **change), threshold=0.9, alpha=0.01)
    assert (found.name, found.scope) == (verdict, scope)
    if reason is None:
        assert found.reasons == ()
    else:
        assert any(reason in text for text in found.reasons)


def test_a_broken_control_outweighs_good_numbers_and_bad_ones() -> None:
    worse = replace(GOOD, controls=WRONG_CONTROL, matched_p=0.9)
    assert decide(worse, 0.9, 0.01).name == "no claim"
