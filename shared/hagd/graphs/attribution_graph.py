"""The task attribution graph: nodes keyed by (kind, layer, role, index), edges averaged over prompts."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from hagd.graphs.nodes import Node


@dataclass(frozen=True)
class AttributionGraph:
    """Directed acyclic graph over D_discover. Edges run from earlier to later in the network.

    Nodes are sorted by (stage in the network, role, kind, index), so that every edge has source < target.
    """

    nodes: tuple[Node, ...]
    roles: tuple[str, ...]
    n_layers: int
    source: Int[np.ndarray, " edge"]
    target: Int[np.ndarray, " edge"]
    weight: Float[np.ndarray, " edge"]
    """Signed mean over prompts of gradient times activation, zeros included. Units of the target."""
    weight_abs: Float[np.ndarray, " edge"]
    """Mean of the absolute value over prompts."""
    statistics: Mapping[str, Float[np.ndarray, " node"]]
    """Per node: `score` (mean metric attribution, signed), `score_abs`, `activation` (mean), `frequency` (share of
    prompts where active), `influence` (share of |metric| flow that passes the node)."""
    n_prompts: int

    @property
    def n_nodes(self) -> int:
        return len(self.nodes)
