"""The verdict: a rule over measured numbers, with the reason for every step it did not pass.

`no claim`: nothing can be said (the model does not do the task, or a negative control came out wrong).
`verified` at component level: the matched null is rejected, the circuit is sufficient, the controls are clean.
`verified` at feature level: besides, features carry the effect, none of it is left to whole blocks, and dictionary
errors owe it nothing.
`refuted`: everything else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hagd_verification.domain.statistics import Interval

VerdictName = Literal["verified", "refuted", "no claim"]
Scope = Literal["component-level", "feature-level"]

EQUIVALENCE_ALPHA = 0.05
FEWEST_FOR_EQUIVALENCE = 200
"""Prompts below which equivalence of F is not accepted as evidence."""
MOST_ERROR_CREDIT = 0.1


@dataclass(frozen=True)
class ControlOutcome:
    """A negative control: what it came out as, and what it had to."""

    name: str
    verdict: VerdictName
    expected: VerdictName

    @property
    def clean(self) -> bool:
        return self.verdict == self.expected


@dataclass(frozen=True)
class Claimability:
    """Whether there is a behaviour to explain."""

    accuracy: float
    minimum_accuracy: float
    metric_gap: Interval
    """E m(M) - E m(M_0): what the model's own run is worth over the empty circuit."""

    @property
    def reasons(self) -> list[str]:
        """Say what is missing; empty when a claim can be made."""
        found: list[str] = []
        if self.accuracy < self.minimum_accuracy:
            found.append(f"the model answers {self.accuracy:.3f} rightly, below {self.minimum_accuracy}")
        if self.metric_gap.low <= 0:
            found.append(f"the model's metric does not exceed the empty circuit's (gap {self.metric_gap.value:.3g})")
        return found


@dataclass(frozen=True)
class Evidence:
    """The numbers that the rule reads."""

    claimability: Claimability
    preserved: Interval
    matched_p: float | None
    """None where the null cannot vary: then nothing is shown against it."""
    equivalence_p: float | None
    n_prompts: int
    feature_share: Interval | None
    error_credit: Interval | None
    n_unexplained: int
    """Whole MLP blocks in the circuit."""
    controls: Sequence[ControlOutcome]


@dataclass(frozen=True)
class Verdict:
    name: VerdictName
    scope: Scope | None
    reasons: tuple[str, ...]
    """Why not more: what kept the verdict from the next better one."""


def decide(evidence: Evidence, threshold: float, alpha: float) -> Verdict:
    """Apply the rule. `threshold` is what BP's lower bound must exceed, `alpha` what the null's p must not."""
    blocking = evidence.claimability.reasons
    blocking += [
        f"the control {control.name!r} came out {control.verdict!r}, expected {control.expected!r}"
        for control in evidence.controls
        if not control.clean
    ]
    if blocking:
        return Verdict("no claim", None, tuple(blocking))
    lacking = lacks_sufficiency(evidence, threshold, alpha)
    if lacking:
        return Verdict("refuted", None, tuple(lacking))
    coarse = lacks_features(evidence)
    return Verdict("verified", "component-level" if coarse else "feature-level", tuple(coarse))


def lacks_sufficiency(evidence: Evidence, threshold: float, alpha: float) -> list[str]:
    """Say what sufficiency lacks."""
    found: list[str] = []
    if evidence.matched_p is None:
        found.append("matched random circuits cannot differ from this one")
    elif evidence.matched_p > alpha:
        found.append(f"matched random circuits are not excluded (p = {evidence.matched_p:.3g}, allowed {alpha})")
    tested = evidence.equivalence_p is not None and evidence.n_prompts >= FEWEST_FOR_EQUIVALENCE
    equivalent = tested and evidence.equivalence_p is not None and evidence.equivalence_p < EQUIVALENCE_ALPHA
    if not equivalent and evidence.preserved.low <= threshold:
        found.append(
            f"the lower bound of preservation is {evidence.preserved.low:.3f}, not above {threshold}, "
            "and faithfulness is not equivalent to 1"
        )
    return found


def lacks_features(evidence: Evidence) -> list[str]:
    """Say what a claim about features lacks."""
    share, credit = evidence.feature_share, evidence.error_credit
    if share is None:
        return ["the circuit holds no features"]
    found: list[str] = []
    if evidence.n_unexplained:
        found.append(f"{evidence.n_unexplained} whole blocks in the circuit stay unexplained")
    if share.low <= 0:
        found.append(f"the interval of the feature-mediated share reaches {share.low:.3f}")
    if credit is None or credit.high >= MOST_ERROR_CREDIT:
        reached = "any value" if credit is None else f"{credit.high:.3f}"
        found.append(f"the interval of the error credit reaches {reached}")
    return found
