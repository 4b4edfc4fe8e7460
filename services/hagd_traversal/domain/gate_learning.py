"""Set-level gates: how much each node is needed in company of the others, learned by gradient descent.

Every node has a hard-concrete gate (Louizos et al. 2018, arXiv 1712.01312): a random number that is exactly 0, exactly
1 or between, of which one parameter moves the odds. Each step draws all gates and new prompts with new donors, and
lowers KL(model || circuit) plus a price per expected open gate. Scores of single nodes miss what overlaps and
interacts; gates are judged together. They only order the nodes: removal itself is decided by causal tests.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hagd.tasks.splits import generator_for
from hagd_traversal.domain.evidence import Evidence

_TEMPERATURE, _LOW, _HIGH = 2 / 3, -0.1, 1.1
"""Of the hard-concrete distribution, as published."""
_LEADING_LOGIT, _TRAILING_LOGIT = 2.0, -3.0
_WARM_UP, _COOL_DOWN = 0.2, 0.3
"""Shares of the steps in which the price rises to its full height and the learning rate falls to nothing."""
_CLOSED = -1e3


@dataclass(frozen=True)
class GateConfig:
    """How long and how hard gates are learned."""

    steps: int
    price_nats: float
    """KL that an open gate must save."""
    prompts: int
    """Discovery prompts of a step."""
    learning_rate: float = 0.15
    head_start: int = 1200
    """The guide's first so many nodes start likelier open than closed, in falling order."""


def learn_gates(
    evidence: Evidence, order: Sequence[int], fixed: Bool[Tensor, " node"], config: GateConfig, seed: int
) -> Float[Tensor, " node"]:
    """Give the log-odds of every node's gate; nodes outside `order` get a number below all others.

    Args:
        evidence: drawn anew at every step.
        order: nodes that may open, most important first by the guide; sets where they start.
        fixed: nodes that stay open and cost nothing.
        config: steps and price.
        seed: of the gates' noise.
    """
    log_odds = _start(len(fixed), order, config).requires_grad_(True)
    usable = torch.zeros(len(fixed))
    usable[list(order)] = 1.0
    optimiser = torch.optim.Adam([log_odds], lr=config.learning_rate, betas=(0.9, 0.95))
    generator = generator_for(seed, "gates")
    for step in range(config.steps):
        evidence.redraw(config.prompts)
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * min(1.0, (config.steps - step) / (_COOL_DOWN * config.steps))
        gates = torch.where(fixed, 1.0, _draw(log_odds, generator)) * usable
        expected = (_odds_of_opening(log_odds) * usable * ~fixed).sum()
        price = config.price_nats * min(1.0, step / (_WARM_UP * config.steps))
        optimiser.zero_grad()
        (evidence.opened_divergence(gates) + price * expected).backward()
        optimiser.step()
    return torch.where(usable > 0, torch.where(fixed, -_CLOSED, log_odds.detach()), _CLOSED)


def _start(n_nodes: int, order: Sequence[int], config: GateConfig) -> Float[Tensor, " node"]:
    """Let the log-odds fall linearly over the guide's first nodes."""
    log_odds = torch.full((n_nodes,), _TRAILING_LOGIT)
    place = torch.arange(len(order)) / min(config.head_start, len(order))
    log_odds[list(order)] = torch.where(place < 1, _LEADING_LOGIT * (1 - place), _TRAILING_LOGIT)
    return log_odds


def _draw(log_odds: Float[Tensor, " node"], generator: torch.Generator) -> Float[Tensor, " node"]:
    uniform = torch.rand(len(log_odds), generator=generator).clamp(1e-4, 1 - 1e-4)
    stretched = torch.sigmoid((torch.logit(uniform) + log_odds) / _TEMPERATURE) * (_HIGH - _LOW) + _LOW
    return stretched.clamp(0, 1)


def _odds_of_opening(log_odds: Float[Tensor, " node"]) -> Float[Tensor, " node"]:
    """Give the probability that a gate is not 0."""
    return torch.sigmoid(log_odds - _TEMPERATURE * math.log(-_LOW / _HIGH))
