"""The circuit against random ones: sufficiency under two nulls, and necessity as an excess."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hagd.interventions.evaluation import HEADLINE
from hagd_verification.domain.frontier import Frontier
from hagd_verification.domain.nulls import FEATURE, MLP, NullFamily
from hagd_verification.domain.panel import Panel
from hagd_verification.domain.statistics import MonteCarlo, holm, monte_carlo, normalise

_CELLS_AT_ONCE = 1 << 23
"""Entries of the circuits held at once."""


@dataclass(frozen=True)
class RandomTest:
    """One null: the random circuits' scores, beside the circuit's own on the same prompts and donors."""

    result: MonteCarlo
    observed: float
    chance: float
    n_prompts: int
    overlap: float
    """Expected share of nodes, beside the fixed ones, that a random circuit has in common with the circuit."""
    constant: bool
    """The null has one member only, so that it tests nothing."""

    @property
    def p(self) -> float | None:
        return None if self.constant else self.result.p


def against(
    panel: Panel,
    circuit: Float[Tensor, " node"],
    family: NullFamily,
    draws: int,
    stop_after: int | None,
    on_part: Callable[[float], None] = lambda _: None,
) -> RandomTest:
    """Score random circuits of a family as the headline scores the circuit.

    `on_part` hears the share done.
    """
    observed = panel.headline_of_many(circuit[None])[0]

    def score(first: int, count: int) -> list[float]:
        on_part(first / draws)
        return panel.headline_of_many(family.draw(first, count))

    most = max(1, _CELLS_AT_ONCE // family.n_entries)
    together = min(most, 1 if stop_after is not None else 256)
    draws = 1 if family.is_constant else draws
    result = monte_carlo(score, observed, draws, together=together, stop_after=stop_after)
    chance = min(panel.empty(setting).preserved for setting in HEADLINE)
    return RandomTest(result, observed, chance, len(panel), family.overlap, family.is_constant)


def random_control_to_json(uniform: RandomTest, matched: RandomTest) -> dict[str, Any]:
    """Give the `random_control` of the contract; p-values are adjusted by Holm within this table beside it."""
    adjusted = holm([1.0 if test.p is None else test.p for test in (uniform, matched)])
    return {
        name: _test_to_json(test, p)
        for name, test, p in zip(("uniform", "matched"), (uniform, matched), adjusted, strict=True)
    }


def _test_to_json(test: RandomTest, adjusted: float) -> dict[str, Any]:
    result = test.result
    return {
        "mean": result.mean,
        "q95": result.q95,
        "p": test.p,
        "p_holm": None if test.p is None else adjusted,
        "mean_normalised": normalise(result.mean, test.chance),
        "circuit": test.observed,
        "overlap": test.overlap,
        "draws": len(result.scores),
        "exceedances": result.exceedances,
        "stopped_early": result.stopped_early,
        "n": test.n_prompts,
        "samples": [round(value, 4) for value in result.scores],
    }


def necessity(panel: Panel, frontier: Frontier, uniform: NullFamily, matched: NullFamily, draws: int) -> dict[str, Any]:
    """Give what removing the circuit destroys, beyond removing random sets of nodes, all else live.

    `whole` removes all its nodes, against uniform sets of that size. `parts` removes its features and blocks only,
    against matched ones, since removing tokens and heads destroys the behaviour whatever else goes.
    """
    circuit, universe = frontier.vector(), frontier.universe
    varying = (universe.kinds == FEATURE) | (universe.kinds == MLP)
    found: dict[str, Any] = {"whole": _excess(panel, circuit, uniform.draw(0, draws))}
    parts = circuit * varying
    if bool(parts.any()) and not matched.is_constant:
        found["parts"] = _excess(panel, parts, matched.draw(0, draws) * varying)
    return found


def _excess(panel: Panel, removed: Float[Tensor, " node"], random: Float[Tensor, "circuit node"]) -> dict[str, Any]:
    exists = panel.prepared.universe.exists
    left = (1 - torch.cat([removed[None], random])) * exists
    damage = [1 - value for value in panel.headline_of_many(left, errors="live")]
    others = float(np.mean(damage[1:]))
    return {"damage": damage[0], "random_mean": others, "excess": damage[0] - others, "draws": len(random)}
