"""The multi-resolution hierarchy: an execution tree over the nodes of a graph, and a module view for readers."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int


@dataclass(frozen=True)
class LevelReport:
    """Quality and cost of one level."""

    n_groups: int
    normalised_cut: float
    intra_weight: float
    """Share of edge weight inside groups."""
    largest: int
    residual: float
    """Largest eigen-residual norm of the embedding used (certificate)."""
    seconds: float
    megabytes: float
    cyclic_weight: float
    """Share of quotient edge weight that lies in cycles; 0 by construction in the execution tree."""


@dataclass(frozen=True)
class Hierarchy:
    """Level 0 are the graph's nodes. `parents[i]` maps each group of level i to its group of level i + 1.

    Low groups of the execution tree hold nodes of one (kind, layer, role) block; higher ones span adjacent roles of
    one (kind, layer), the highest adjacent layers. Quotients are acyclic and tokens, errors and the logit stay apart.
    """

    parents: tuple[Int[np.ndarray, " _"], ...]
    levels: tuple[LevelReport, ...]
    module_labels: Int[np.ndarray, " node"]
    """Unconstrained spectral clusters of the nodes, for readers."""
    module_report: LevelReport
    branching: int

    def members(self, level: int) -> Int[np.ndarray, " node"]:
        """Give each node's group at `level`."""
        groups = np.arange(len(self.module_labels))
        for parent in self.parents[:level]:
            groups = parent[groups]
        return groups
