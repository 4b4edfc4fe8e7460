"""The graph of one prompt as a graph of the pipeline, so that one made anywhere can be coarsened and searched."""

import numpy as np

from hagd.graphs.attribution_graph import AttributionGraph
from hagd.graphs.local_graph import LocalGraph
from hagd.graphs.local_influence import column_influence
from hagd.graphs.nodes import NODE_KINDS, Node


def to_attribution_graph(graph: LocalGraph) -> AttributionGraph:
    """Give a graph whose roles are the positions of the prompt, and whose logit is all targets, weighted.

    Edges of zero are left out. Statistics that need several prompts, or a model, are those of one prompt: `frequency`
    is 1, and the `score` of a node is its edge into the logit.
    """
    n_features, n_pos, n_layers = graph.n_features, graph.n_pos, graph.n_layers
    roles = tuple(f"p{pos}" for pos in range(n_pos))
    nodes = [Node("feature", layer, roles[pos], name) for layer, pos, name in graph.features.tolist()]
    nodes += [Node("error", layer, role) for layer in range(n_layers) for role in roles]
    nodes += [Node("token", -1, role) for role in roles]
    nodes += [Node("head", layer, roles[pos], head) for layer, head, pos in graph.heads.tolist()]
    stages = [2 * node.layer + 2 - (node.kind == "head") for node in nodes]
    places = [int(node.role[1:]) for node in nodes]
    kinds = [NODE_KINDS.index(node.kind) for node in nodes]
    order = np.lexsort(([node.index for node in nodes], kinds, places, stages))
    number = np.empty(len(nodes) + 1, dtype=np.int64)
    number[order], number[-1] = np.arange(len(nodes)), len(nodes)
    weights = graph.weights
    inner, ends = np.split(graph.rows, [n_features + graph.n_head_nodes])
    logit = (weights @ ends)[None]
    rows = np.concatenate([inner, logit])
    absolute = np.abs(rows)
    absolute[-1] = weights @ np.abs(ends)
    targets, sources = absolute.nonzero()
    readers = np.append(graph.rows_of_nodes()[: len(inner)], len(nodes))
    target = number[readers[targets]]
    source = number[sources]
    sorting = np.lexsort((source, target))
    activation = np.zeros(len(nodes) + 1)
    activation[number[:n_features]] = graph.activations
    influence, score = np.zeros(len(nodes) + 1), np.zeros(len(nodes) + 1)
    influence[number[:-1]], influence[-1] = column_influence(graph), float(weights.sum())
    score[number[:-1]], score[-1] = logit[0], float(logit.sum())
    return AttributionGraph(
        nodes=(*(nodes[at] for at in order.tolist()), Node("logit", n_layers, roles[-1])),
        roles=roles,
        n_layers=n_layers,
        source=source[sorting],
        target=target[sorting],
        weight=rows[targets, sources][sorting].astype(np.float64),
        weight_abs=absolute[targets, sources][sorting].astype(np.float64),
        statistics={
            "score": score,
            "score_abs": np.abs(score),
            "activation": activation,
            "frequency": np.ones(len(nodes) + 1),
            "influence": influence,
        },
        n_prompts=1,
    )
