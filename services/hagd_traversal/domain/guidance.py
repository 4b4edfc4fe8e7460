"""What steers the traversal: influence, membership scores of the graph network, and the hierarchy's groups.

The predicted cost of removing a node starts from its integrated gate gradient (the larger of the two donors') and
is scaled by the membership score. That order is where set-level gates start, and they then take its place.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hagd.graphs.attribution_graph import AttributionGraph
from hagd.graphs.hierarchy import Hierarchy
from hagd_traversal.domain.evidence import Evidence
from hagd_traversal.membership.network import leaf_scores, membership_scores

_MEMBERSHIP_FLOOR = 0.25
"""A node that the network rejects keeps this share of its predicted cost: influence is never overruled."""
_PARTS = 16


@dataclass(frozen=True)
class Guide:
    """Predicted costs over the universe."""

    importance: Float[Tensor, " node"]
    """Predicted cost of removal (scale-free); 0 for what cannot be in a circuit."""
    signed: Float[Tensor, " node"]
    """Signed attribution to the metric, mean of both donors, in logits."""
    levels: list[Int[Tensor, " node"]]
    """Group of every entry per level of the execution tree, finest first."""

    @staticmethod
    def build(
        evidence: Evidence,
        graph: AttributionGraph,
        hierarchy: Hierarchy,
        guide: Literal["gnn", "influence"],
        points: Sequence[float],
    ) -> "Guide":
        """Score the universe by integrated gradients over the gates and by the graph network."""
        universe = evidence.universe
        known = [(i, universe.entry(node)) for i, node in enumerate(graph.nodes) if node.kind != "logit"]
        here = torch.tensor([i for i, _ in known])
        there = torch.tensor([entry for _, entry in known])
        rows = evidence.gate_gradients(universe.exists.float(), points, objective="metric", parts=_PARTS)
        importance = rows.abs().amax(0)
        if guide == "gnn":
            scores = torch.from_numpy(leaf_scores(membership_scores(graph, hierarchy), hierarchy)).float()
            importance[there] *= _MEMBERSHIP_FLOOR + (1 - _MEMBERSHIP_FLOOR) * scores[here]
        allowed = torch.zeros(len(universe), dtype=torch.bool)
        allowed[there] = True
        importance[~(allowed & universe.exists & (universe.kinds != 3))] = 0.0
        importance[: len(universe.roles)] += importance.max() * (rows.abs().amax(0)[: len(universe.roles)] > 0)
        return Guide(importance, rows.mean(0), _levels(hierarchy, here, there, len(universe)))

    @property
    def order(self) -> list[int]:
        """Entries of positive importance, most important first."""
        ranked = self.importance.argsort(descending=True, stable=True)
        return ranked[self.importance[ranked] > 0].tolist()

    def with_gates(self, log_odds: Float[Tensor, " node"]) -> "Guide":
        """Predict costs by learned gates from now on."""
        return replace(self, importance=torch.sigmoid(log_odds / 2) * (self.importance > 0))


def _levels(hierarchy: Hierarchy, here: Tensor, there: Tensor, n_entries: int) -> list[Int[Tensor, " node"]]:
    """Carry the tree's groups from graph nodes to entries; entries outside the graph are their own group."""
    levels = [torch.arange(n_entries)]
    for level in range(1, len(hierarchy.parents) + 1):
        members = np.asarray(hierarchy.members(level))
        groups = torch.arange(n_entries) + len(members)
        groups[there] = torch.from_numpy(members).long()[here]
        levels.append(groups)
    return levels
