"""How much of what reaches its ends a graph explains: the published scores, and what they are for a task graph.

The scores of the graph of one prompt are taken on its rows, in `local_influence.py`.
"""

from dataclasses import dataclass

import numpy as np

from hagd.graphs.attribution_graph import AttributionGraph
from hagd.graphs.influence import shares


@dataclass(frozen=True)
class GraphScores:
    """How much of what reaches the targets the graph explains; all between 0 and 1."""

    replacement: float
    """Share of the influence of tokens and errors that tokens have: paths that no error feeds."""
    completeness: float
    """Share of what goes into nodes, weighted by their influence, that does not come from errors."""
    errors_by_layer: tuple[float, ...]
    """Share of the influence of tokens and errors that the errors of each layer have."""


def score_task_graph(graph: AttributionGraph) -> GraphScores:
    """Give the scores of a task graph.

    Influence is that over all edges, which the graph brings along; completeness takes what goes into a node from the
    edges that are kept. Whole blocks, which no dictionary resolves, count as explained: they have no errors.
    """
    influence = graph.statistics["influence"]
    is_error = np.array([node.kind == "error" for node in graph.nodes])
    is_token = np.array([node.kind == "token" for node in graph.nodes])
    layers = np.array([node.layer for node in graph.nodes])
    errors = np.bincount(layers[is_error], weights=influence[is_error], minlength=graph.n_layers)
    tokens = float(influence[is_token].sum())
    together = float(errors.sum()) + tokens
    share = shares(graph.n_nodes, graph.target, graph.weight_abs)
    from_errors = np.bincount(graph.target, weights=share * is_error[graph.source], minlength=graph.n_nodes)
    return GraphScores(
        tokens / together if together else 1.0,
        float(((1 - from_errors) * influence).sum() / influence.sum()),
        tuple((errors / together if together else errors).tolist()),
    )
