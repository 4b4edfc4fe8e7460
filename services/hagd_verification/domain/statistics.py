"""The tests behind every verified number: cluster bootstrap, equivalence, random-circuit p-values, Holm.

The unit of resampling is the group (template, subject, twin), because prompts of one group are not independent.
One set of bootstrap weights serves all numbers of a report, so differences between them are paired.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

LEVEL = 0.95
_VANISHING = 1e-9
_TIE = 1e-6
"""Scores are means of single-precision numbers: closer ones count as equal, against the circuit."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float

    def pair(self) -> list[float]:
        """Give the interval as JSON."""
        return [self.low, self.high]


@dataclass(frozen=True)
class ClusterBootstrap:
    """Resampled group counts: how often each prompt counts in each draw."""

    group_of: Int[np.ndarray, " prompt"]
    weights: Float[np.ndarray, "draw group"]
    """Multinomial counts; every row sums to the number of groups."""

    @staticmethod
    def of(groups: Sequence[str], draws: int, seed: int) -> "ClusterBootstrap":
        """Draw the weights of `draws` resamples with replacement of the groups."""
        names = {name: number for number, name in enumerate(dict.fromkeys(groups))}
        group_of = np.array([names[name] for name in groups])
        count = len(names)
        weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
        return ClusterBootstrap(group_of, weights.astype(np.float64))

    @property
    def n_groups(self) -> int:
        return self.weights.shape[1]

    @cached_property
    def _sizes(self) -> Float[np.ndarray, " draw"]:
        return self.weights @ np.bincount(self.group_of, minlength=self.n_groups)

    def means(self, values: Float[np.ndarray, " prompt"]) -> Float[np.ndarray, " draw"]:
        """Give the mean over prompts in every resample."""
        sums = np.bincount(self.group_of, weights=values, minlength=self.n_groups)
        return (self.weights @ sums) / self._sizes

    def mean(self, values: Float[np.ndarray, " prompt"]) -> Interval:
        """Give the mean with its percentile interval.

        Where every prompt has the same value of 0 or 1 the resamples cannot vary; the exact binomial bound over
        groups stands in for them, so that a perfect score on few groups is not reported as certain.
        """
        return self.smallest([values])

    def smallest(self, several: Sequence[Float[np.ndarray, " prompt"]]) -> Interval:
        """Give the smallest of several means with its interval; the minimum is taken within every resample."""
        value = min(float(np.mean(values)) for values in several)
        low, high = percentiles(np.min([self.means(values) for values in several], axis=0))
        slack = 1 - ((1 - LEVEL) / 2) ** (1 / self.n_groups)
        if value == 1:
            return Interval(value, 1 - slack, 1.0)
        if value == 0 and low == high:
            return Interval(value, 0.0, slack)
        return Interval(value, min(low, value), max(high, value))


def percentiles(draws: Float[np.ndarray, " draw"]) -> tuple[float, float]:
    """Give the bounds of the central 95 %."""
    low, high = np.percentile(draws, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)


def ratio(
    bootstrap: ClusterBootstrap, above: Float[np.ndarray, " prompt"], below: Float[np.ndarray, " prompt"]
) -> tuple[float, Float[np.ndarray, " draw"]] | None:
    """Give a ratio of means, and the same ratio in every resample; None where the denominator vanishes."""
    bottom = float(np.mean(below))
    if abs(bottom) < _VANISHING:
        return None
    drawn = bootstrap.means(below)
    drawn = np.where(np.abs(drawn) < _VANISHING, _VANISHING, drawn)
    return float(np.mean(above)) / bottom, bootstrap.means(above) / drawn


def interval_of(estimate: tuple[float, Float[np.ndarray, " draw"]] | None) -> Interval | None:
    """Give a bootstrapped estimate with its percentile interval."""
    if estimate is None:
        return None
    return Interval(estimate[0], *percentiles(estimate[1]))


def equivalence_p(draws: Float[np.ndarray, " draw"], target: float = 1.0, margin: float = 0.1) -> float:
    """Give the p-value of two one-sided tests that a statistic lies within `margin` of `target`.

    H0: |statistic - target| >= margin. Each side's p is the bootstrap share beyond its bound; TOST takes the larger.
    """
    below = count_p(int((draws <= target - margin).sum()), len(draws))
    above = count_p(int((draws >= target + margin).sum()), len(draws))
    return max(below, above)


def count_p(exceedances: int, draws: int) -> float:
    """Give (1 + count) / (1 + draws), the valid p-value of a Monte-Carlo test."""
    return (1 + exceedances) / (1 + draws)


def normalise(preserved: float, chance: float) -> float | None:
    """Give (BP - BP_0) / (1 - BP_0); None where chance is 1."""
    return None if chance > 1 - _VANISHING else (preserved - chance) / (1 - chance)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for their number (Holm's step-down), in the given order."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


@dataclass(frozen=True)
class MonteCarlo:
    """Scores of random circuits, and the p-value that the tested one is one of them."""

    scores: tuple[float, ...]
    exceedances: int
    p: float
    stopped_early: bool

    @property
    def mean(self) -> float:
        return float(np.mean(self.scores))

    @property
    def q95(self) -> float:
        return float(np.quantile(self.scores, 0.95))


def monte_carlo(
    score: Callable[[int, int], Sequence[float]],
    observed: float,
    draws: int,
    *,
    together: int,
    stop_after: int | None = None,
) -> MonteCarlo:
    """Test `observed` against random scores, `score(first, count)` giving those of some draws.

    With `stop_after` = h the test is sequential (Besag and Clifford, 1991): it ends at the h-th exceedance, with
    p = h / draws so far, which is valid at whatever draw it ends. Otherwise p = (1 + exceedances) / (1 + draws).
    """
    scores: list[float] = []
    exceedances = 0
    while len(scores) < draws:
        for value in score(len(scores), min(together, draws - len(scores))):
            scores.append(value)
            exceedances += value >= observed - _TIE
            if stop_after is not None and exceedances >= stop_after:
                return MonteCarlo(tuple(scores), exceedances, exceedances / len(scores), True)
    return MonteCarlo(tuple(scores), exceedances, count_p(exceedances, draws), False)
