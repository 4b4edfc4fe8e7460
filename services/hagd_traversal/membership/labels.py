"""Causal labels: what removing a node adds to KL(model || circuit), averaged over random circuits around it.

A node's effect in the whole model says little where others take over or must work together; the average over random
sets (its Banzhaf value) counts both. Each set is run with and without every candidate, so that what the rest of the
set does cancels: a regression of KL on random sets needs far more runs for the same precision, since the many small
effects drown in the few large ones. Nodes outside the set take their mean over prompts, another intervention than the
resampled donors on which circuits are judged, and only discovery prompts are used.

Features are in a set with a probability drawn anew for each. Tokens, heads, blocks and skip paths are few and most of
them are vital, so in every other set one of them is missing on average, else none: otherwise all sets were broken.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hagd.interventions.evaluation import Prepared, PreparedBatch, Setting, evaluate

KEPT = (0.3, 0.9)
"""Range of the probability with which a feature is in a random set."""
_FEATURE = 5
_CERTAIN = 2.0


@dataclass(frozen=True)
class SetEffects:
    """Estimated effects of some entries of the universe, in the same order as these."""

    entries: Int[Tensor, " candidate"]
    effect: Float[Tensor, " candidate"]
    """Mean KL (nats) that the node's absence adds, over random circuits."""
    standard_error: Float[Tensor, " candidate"]
    evaluations: int
    """Prompts times circuits run."""

    @property
    def certain(self) -> Float[Tensor, " candidate"]:
        """The effect where it is positive by two standard errors, else 0: noise must not add up to members."""
        return torch.where(self.effect > _CERTAIN * self.standard_error, self.effect, 0.0)


def measure_set_effects(
    prepared: Prepared, candidates: Bool[Tensor, " node"], *, n_sets: int, prompts_per_set: int, seed: int
) -> SetEffects:
    """Measure the set-level effect of every candidate.

    Args:
        prepared: discovery prompts of a small model.
        candidates: entries of the universe that may be in a circuit; all others are never in.
        n_sets: random circuits, each run once per candidate and once more; at least 2.
        prompts_per_set: prompts on which one set is run, drawn anew for each.
        seed: of the sets and their prompts.
    """
    generator = torch.Generator().manual_seed(seed)
    entries = candidates.nonzero().flatten()
    sets = draw_sets(prepared.universe.kinds[entries] == _FEATURE, n_sets, generator)
    rows: list[Tensor] = []
    evaluations = 0
    for chosen in sets:
        some = _draw_prompts(prepared, prompts_per_set, generator)
        toggled = torch.cat([chosen[None], (chosen - torch.eye(len(entries))).abs()])
        circuits = torch.zeros(len(toggled), len(candidates))
        circuits[:, entries] = toggled
        divergences = evaluate(some, circuits, Setting("mean")).kl_nats.mean(-1)
        added = divergences[1:] - divergences[0]
        rows.append(torch.where(chosen > 0, added, -added))
        evaluations += len(circuits) * len(some.groups)
    table = torch.stack(rows)
    return SetEffects(entries, table.mean(0), table.std(0) / n_sets**0.5, evaluations)


def draw_sets(
    fine: Bool[Tensor, " candidate"], n_sets: int, generator: torch.Generator
) -> Float[Tensor, "set candidate"]:
    """Draw random sets of candidates (1: in).

    `fine` marks the features; where there are none, all candidates are drawn as these are.
    """
    low, high = KEPT
    kept = low + (high - low) * (torch.randperm(n_sets, generator=generator) + 0.5) / n_sets
    kept = kept[:, None].expand(-1, len(fine)).clone()
    if fine.any():
        kept[:, ~fine] = 1.0
        kept[1::2, ~fine] -= 1.0 / max(int((~fine).sum()), 1)
    return (torch.rand(kept.shape, generator=generator) < kept).float()


def _draw_prompts(prepared: Prepared, count: int, generator: torch.Generator) -> Prepared:
    """Take some prompts of every layout; means stay those over all prompts, unpaired donors are dropped."""
    share = -(-count // len(prepared.batches))
    batches: list[PreparedBatch] = []
    for p in prepared.batches:
        index = torch.randperm(len(p.batch), generator=generator)[:share]
        batches.append(
            PreparedBatch(p.batch.take(index), p.clean.take(index), p.counterfactual.take(index), (), p.mean, p.zero)
        )
    return Prepared(prepared.subject, prepared.universe, tuple(batches), prepared.judged)
