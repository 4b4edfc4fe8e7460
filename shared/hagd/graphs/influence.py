"""How much of what reaches the logit flows through each node and edge, and pruning by it.

With incoming |weights| normalised to shares A (row = target), the influence of node s is the entry (logit, s)
of (I - A)^-1: all paths, each weighted by the product of its shares. The graph is acyclic and its nodes are
sorted, so the inverse is a sum over at most `depth` sparse products and is never formed.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Int

from hagd.graphs.attribution_graph import AttributionGraph


def shares(
    n_nodes: int, target: Int[np.ndarray, " edge"], weight_abs: Float[np.ndarray, " edge"]
) -> Float[np.ndarray, " edge"]:
    """Give each edge's share of the |weight| into its target."""
    total = np.bincount(target, weights=weight_abs, minlength=n_nodes)
    return weight_abs / np.where(total > 0, total, 1.0)[target]


def node_influence(graph: AttributionGraph, start: int | None = None) -> Float[np.ndarray, " node"]:
    """Give the influence of every node on `start` (the logit if None), over the graph's own edges; 1 for itself.

    Kept edges only: `statistics["influence"]` of a task graph counts the edges that were thinned out, too.
    """
    share = shares(graph.n_nodes, graph.target, graph.weight_abs)
    total = np.zeros(graph.n_nodes)
    total[graph.n_nodes - 1 if start is None else start] = 1.0
    front = total
    while front.any():
        front = np.bincount(graph.source, weights=share * front[graph.target], minlength=graph.n_nodes)
        total = total + front
    return total


def edge_influence(graph: AttributionGraph) -> Float[np.ndarray, " edge"]:
    """Give the influence that flows through every edge: the target's influence times the edge's share."""
    return node_influence(graph)[graph.target] * shares(graph.n_nodes, graph.target, graph.weight_abs)


def prune(graph: AttributionGraph, node_share: float = 0.8, edge_share: float = 0.98) -> AttributionGraph:
    """Keep the fewest strongest nodes, then edges, that hold the given shares of all influence.

    The published rule of circuit-tracer, for task graphs: nodes sorted by influence until their sum passes
    `node_share` of the total, then edges among them likewise. Tokens and the logit always stay.
    """
    influence = node_influence(graph)
    always = np.array([node.kind in {"token", "logit"} for node in graph.nodes])
    kept = select_nodes(graph, _strongest(influence, node_share) | always)
    through = edge_influence(kept)
    return select_edges(kept, _strongest(through, edge_share))


def select_nodes(graph: AttributionGraph, keep: Bool[np.ndarray, " node"]) -> AttributionGraph:
    """Give the subgraph on some nodes."""
    number = np.cumsum(keep) - 1
    edges = keep[graph.source] & keep[graph.target]
    return replace(
        select_edges(graph, edges),
        nodes=tuple(node for node, kept in zip(graph.nodes, keep.tolist(), strict=True) if kept),
        source=number[graph.source[edges]],
        target=number[graph.target[edges]],
        statistics={name: value[keep] for name, value in graph.statistics.items()},
    )


def select_edges(graph: AttributionGraph, keep: Bool[np.ndarray, " edge"]) -> AttributionGraph:
    """Give the graph with some of its edges."""
    return replace(
        graph,
        source=graph.source[keep],
        target=graph.target[keep],
        weight=graph.weight[keep],
        weight_abs=graph.weight_abs[keep],
    )


def _strongest(values: Float[np.ndarray, " entry"], share: float) -> Bool[np.ndarray, " entry"]:
    """Mark the fewest largest values whose sum reaches `share` of the total."""
    order = np.argsort(-values, kind="stable")
    before = np.cumsum(values[order]) - values[order]
    keep = np.zeros(len(values), dtype=bool)
    keep[order[before < share * values.sum()]] = True
    return keep
