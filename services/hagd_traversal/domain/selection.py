"""From a search to a nested family: the order of nodes, and the size chosen on D_select.

The order is that of the search, unless the order that the search started from gives a smaller circuit: a search may
only ever improve on influence.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hagd.interventions.evaluation import HEADLINE, Prepared, evaluate
from hagd_traversal.domain.search import SearchState

_MISSES = 4
"""Of sizes a quarter octave apart."""


@dataclass(frozen=True)
class Family:
    """An order of nodes and the size chosen along it."""

    ranking: list[int]
    size: int
    cautious: float
    """What is trusted of its preservation on D_select."""
    evaluated: int
    """Sizes that were scored."""

    @staticmethod
    def of(prepared: Prepared, ranking: list[int], most: int, largest: int | None, target: float) -> "Family":
        """Score sizes of up to `most` nodes, and of no more than `largest` if given, and choose one."""
        scores = score_sizes(prepared, ranking, candidate_sizes(min(len(ranking), most), largest), target)
        size = choose_size(scores, target)
        return Family(ranking, size, next(s.cautious for s in scores if s.size == size), len(scores))

    def is_better_than(self, other: "Family", target: float) -> bool:
        """Say whether this is smaller at the target, or closer to it where not both reach it."""
        if self.cautious >= target and other.cautious >= target:
            return self.size < other.size
        return self.cautious > other.cautious


@dataclass(frozen=True)
class SizeScore:
    """Headline preservation of one nested size on D_select."""

    size: int
    preservation: float
    standard_error: float = 0.0

    @property
    def cautious(self) -> float:
        """What is trusted of it: one standard error less, since a choice among many sizes favours the lucky ones."""
        return self.preservation - self.standard_error


def rank_nodes(state: SearchState, importance: Float[Tensor, " node"]) -> list[int]:
    """Order all nodes the search has touched, most needed first.

    Survivors lead, by importance; removed nodes follow, last removed first. Prefixes are the nested circuits.
    """
    survivors: list[int] = (state.circuit != 0).nonzero().flatten().tolist()
    survivors.sort(key=lambda i: (-float(importance[i]), i))
    return survivors + state.removed[::-1]


def nested(ranking: Sequence[int], sizes: Sequence[int], n_nodes: int) -> Float[Tensor, "circuit node"]:
    """Give the circuits of the asked sizes as vectors."""
    circuits = torch.zeros(len(sizes), n_nodes)
    for row, size in enumerate(sizes):
        circuits[row, list(ranking[:size])] = 1.0
    return circuits


def candidate_sizes(total: int, most: int | None, steps_per_octave: int = 4) -> list[int]:
    """Give sizes in geometric steps up to the largest admissible one."""
    last = min(total, most or total)
    sizes, size = {last}, 4.0
    while size < last:
        sizes.add(round(size))
        size *= 2 ** (1 / steps_per_octave)
    return sorted(sizes)


def score_sizes(prepared: Prepared, ranking: Sequence[int], sizes: Sequence[int], target: float) -> list[SizeScore]:
    """Score nested circuits by the headline, the smaller of counterfactual and unpaired agreement, largest first.

    Ends after `_MISSES` sizes in a row below the target, since what is smaller cannot be chosen.
    """
    scores: list[SizeScore] = []
    misses = 0
    for size in sorted(sizes, reverse=True):
        circuit = nested(ranking, [size], len(prepared.universe))[0]
        agreements = [evaluate(prepared, circuit, setting).agreement for setting in HEADLINE]
        worst = min(agreements, key=lambda agreement: float(agreement.mean()))
        scores.append(SizeScore(size, float(worst.mean()), float(worst.std()) / len(worst) ** 0.5))
        misses = misses + 1 if scores[-1].cautious < target else 0
        if misses == _MISSES:
            break
    return scores


def choose_size(scores: Sequence[SizeScore], target: float) -> int:
    """Give the smallest size that reaches the target, cautiously, and stays above it; else the best one."""
    holding = None
    for score in sorted(scores, key=lambda s: s.size, reverse=True):
        if score.cautious < target:
            break
        holding = score.size
    return holding or max(scores, key=lambda s: (s.cautious, -s.size)).size
