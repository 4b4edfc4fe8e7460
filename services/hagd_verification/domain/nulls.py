"""Random circuits to compare with: uniform, matched, and one with its node scores permuted.

Only nodes that can matter are drawn: features that are live on D_discover, and in the last layer only answer
positions. This makes every null harder to beat. Draw number i depends on (seed, i) alone, so that tests may stop
anywhere and circuits may be made in pieces.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hagd.interventions.evaluation import Prepared
from hagd.interventions.universe import Universe
from hagd.tasks.task import Layout

TOKEN, HEAD, MLP, ERROR, SKIP, FEATURE = range(6)
"""Kinds by their number in `Universe.kinds`."""


FREQUENCY_BINS = 5
"""Features are of like frequency when they fall into the same fifth."""


@dataclass(frozen=True)
class Stratum:
    """So many nodes, drawn without replacement from a pool."""

    pool: Int[np.ndarray, " candidate"]
    count: int


@dataclass(frozen=True)
class NullFamily:
    """A distribution over circuits: fixed nodes and independent draws from strata."""

    n_entries: int
    fixed: Int[np.ndarray, " kept"]
    strata: tuple[Stratum, ...]
    seed: int

    def draw(self, first: int, count: int) -> Float[Tensor, "circuit node"]:
        """Give the circuits number `first` and following."""
        circuits = torch.zeros(count, self.n_entries)
        circuits[:, torch.from_numpy(self.fixed)] = 1.0
        for row in range(count):
            random = np.random.default_rng([self.seed, first + row])
            for stratum in self.strata:
                chosen = random.choice(stratum.pool, stratum.count, replace=False)
                circuits[row, torch.from_numpy(chosen)] = 1.0
        return circuits

    @property
    def overlap(self) -> float:
        """Give the expected share of the drawn nodes that any two draws have in common: near 1, little is tested."""
        drawn = sum(stratum.count for stratum in self.strata)
        shared = sum(stratum.count**2 / len(stratum.pool) for stratum in self.strata)
        return shared / drawn if drawn else 1.0

    @property
    def is_constant(self) -> bool:
        """Say whether every draw is the same circuit, so that nothing can be learned from it."""
        return all(stratum.count == len(stratum.pool) for stratum in self.strata)


def frequencies(discover: Prepared) -> Float[Tensor, " node"]:
    """Give the share of discovery prompts on which each feature is active; 1 for nodes of other kinds."""
    universe = discover.universe
    counts = torch.zeros(len(universe))
    present = torch.zeros(len(universe.roles))
    grids = {layer: torch.zeros(len(universe.roles), count) for layer, count in universe.feature_counts}
    for prompts in discover.batches:
        at = torch.tensor([universe.roles.index(role) for role in prompts.batch.layout.roles])
        present[at] += len(prompts.batch)
        for layer, grid in grids.items():
            grid[at] += (prompts.clean.features[layer][: len(prompts.batch)] != 0).sum(0)
    is_feature = universe.kinds == FEATURE
    if grids:
        flat = [(grids[layer] / present.clamp(min=1)[:, None]).flatten() for layer, _ in universe.feature_counts]
        counts[is_feature] = torch.cat(flat)
    counts[~is_feature] = 1.0
    return counts


def candidates(
    universe: Universe, frequency: Float[Tensor, " node"], layouts: Sequence[Layout]
) -> Bool[Tensor, " node"]:
    """Mark the nodes that exist, are live, are no errors, and can reach an answer position."""
    answers = {layout.roles[i] for layout in layouts for i in layout.answer_positions}
    is_answer = torch.tensor([role in answers for role in universe.roles])
    too_late = (universe.layers == universe.n_layers - 1) & ~is_answer[universe.role_ids]
    return universe.exists & (frequency > 0) & (universe.kinds != ERROR) & ~too_late


def matched(
    universe: Universe,
    circuit: Float[Tensor, " node"],
    usable: Bool[Tensor, " node"],
    frequency: Float[Tensor, " node"],
    seed: int,
) -> NullFamily:
    """Same tokens, heads and skip paths; as many features per layer, role and fifth of frequency; as many whole
    blocks per layer, at any roles (one block stands at each layer and role, so keeping the role would fix it).
    """
    inside = circuit != 0
    fifth = frequency_bins(universe, frequency, usable | inside)
    keys = {
        FEATURE: torch.stack([universe.layers, universe.role_ids, fifth], 1),
        MLP: torch.stack([universe.layers], 1),
    }
    strata = [s for kind, key in keys.items() for s in _strata(inside, usable, universe.kinds == kind, key)]
    fixed = inside & (universe.kinds != FEATURE) & (universe.kinds != MLP)
    return NullFamily(len(universe), fixed.nonzero().flatten().numpy(), tuple(strata), seed)


def frequency_bins(
    universe: Universe, frequency: Float[Tensor, " node"], usable: Bool[Tensor, " node"]
) -> Int[Tensor, " node"]:
    """Give each live feature the fifth that its frequency falls into among those of its layer and role.

    Features of equal frequency fall into the same one.
    """
    bins = torch.zeros(len(universe), dtype=torch.int64)
    for layer, _ in universe.feature_counts:
        for role in range(len(universe.roles)):
            here = usable & (universe.kinds == FEATURE) & (universe.layers == layer) & (universe.role_ids == role)
            entries = here.nonzero().flatten()
            if len(entries):
                values = frequency[entries]
                rarer = torch.searchsorted(values.sort().values, values)
                bins[entries] = rarer * FREQUENCY_BINS // len(entries)
    return bins


def uniform(
    universe: Universe, circuit: Float[Tensor, " node"], usable: Bool[Tensor, " node"], seed: int
) -> NullFamily:
    """As many nodes, from anywhere."""
    inside = circuit != 0
    pool = (usable | inside).nonzero().flatten().numpy()
    return NullFamily(len(universe), np.zeros(0, dtype=np.int64), (Stratum(pool, int(inside.sum())),), seed)


def permuted(
    universe: Universe, circuit: Float[Tensor, " node"], usable: Bool[Tensor, " node"], seed: int
) -> Float[Tensor, " node"]:
    """Give the circuit that the same search would name if the scores were permuted within kind and layer."""
    inside = circuit != 0
    key = torch.stack([universe.kinds, universe.layers], 1)
    strata = _strata(inside, usable, torch.ones_like(inside), key)
    return NullFamily(len(universe), np.zeros(0, dtype=np.int64), tuple(strata), seed).draw(0, 1)[0]


def _strata(
    inside: Bool[Tensor, " node"],
    usable: Bool[Tensor, " node"],
    selected: Bool[Tensor, " node"],
    key: Int[Tensor, "node part"],
) -> list[Stratum]:
    """Group nodes by key; one stratum per group that the circuit takes from."""
    pools: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    counts: defaultdict[tuple[int, ...], int] = defaultdict(int)
    for entry in ((usable | inside) & selected).nonzero().flatten().tolist():
        group = tuple(key[entry].tolist())
        pools[group].append(entry)
        counts[group] += bool(inside[entry])
    return [Stratum(np.array(pools[group]), count) for group, count in sorted(counts.items()) if count]
