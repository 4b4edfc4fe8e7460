"""Leiden communities of weighted links at any resolution, by igraph, and the links that an attribution graph gives.

Traag, Waltman and van Eck, From Louvain to Leiden (Scientific Reports 9, 2019). Modularity with a resolution: the
higher it is, the smaller are the communities.
"""

import random
from dataclasses import dataclass

import igraph
import numpy as np
from jaxtyping import Bool, Float, Int

from hagd.graphs.acyclic import quotient_edges
from hagd.graphs.attribution_graph import AttributionGraph

_ITERATIONS = 5


@dataclass(frozen=True)
class Links:
    """An undirected weighted graph, every pair of nodes at most once."""

    n_nodes: int
    source: Int[np.ndarray, " link"]
    target: Int[np.ndarray, " link"]
    weight: Float[np.ndarray, " link"]

    @staticmethod
    def of(graph: AttributionGraph) -> "Links":
        """Link nodes by log(1 + |weight| / median |weight|): targets have units of very different size."""
        positive = graph.weight_abs[graph.weight_abs > 0]
        unit = float(np.median(positive)) if len(positive) else 1.0
        return Links(graph.n_nodes, graph.source, graph.target, np.log1p(graph.weight_abs / unit))

    @property
    def is_alone(self) -> Bool[np.ndarray, " node"]:
        """Mark the nodes that no link of positive weight reaches."""
        ends = np.concatenate([self.source, self.target])
        return np.bincount(ends, weights=np.tile(self.weight, 2), minlength=self.n_nodes) == 0

    def between(self, groups: Int[np.ndarray, " node"]) -> "Links":
        """Sum the links between groups, between two of which they all run the same way."""
        return Links(int(groups.max()) + 1, *quotient_edges(self.source, self.target, self.weight, groups))


def find_communities(links: Links, resolution: float, seed: int) -> Int[np.ndarray, " node"]:
    """Give each node's community. The same links, resolution and seed give the same communities."""
    pairs = np.column_stack([links.source, links.target]).tolist()
    # igraph draws from one generator for the whole process; it gets one of our own for this call, and its usual back.
    igraph.set_random_number_generator(random.Random(seed))
    try:
        found = igraph.Graph(n=links.n_nodes, edges=pairs).community_leiden(
            objective_function="modularity",
            weights=links.weight.tolist(),
            resolution=resolution,
            n_iterations=_ITERATIONS,
        )
    finally:
        igraph.set_random_number_generator(random)
    return np.array(found.membership, dtype=np.int64)


def find_modules(graph: AttributionGraph, seed: int) -> Int[np.ndarray, " node"]:
    """Give each node's module, largest first: the communities of resolution 1, which may span layers.

    Nodes without links share one.
    """
    links = Links.of(graph)
    labels = np.where(links.is_alone, -1, find_communities(links, 1.0, seed))
    _, first, inverse, sizes = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(sizes), dtype=np.int64)
    rank[np.lexsort((first, -sizes))] = np.arange(len(sizes))
    return rank[inverse]
