"""Scale-free features of nodes and edges, the same at every level of the hierarchy.

Ranks, shares and clipped logs only, so that one network serves graphs of any size, model and task. Groups of a level
are described by the quotient graph: weights summed over members, statistics summed, depth of the level as a feature.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hagd.graphs.attribution_graph import AttributionGraph
from hagd.graphs.hierarchy import Hierarchy
from hagd.graphs.nodes import NODE_KINDS

NODE_FEATURES = (
    "score rank",
    "score log share",
    "score sign",
    "influence rank",
    "influence log share",
    "in-degree rank",
    "out-degree rank",
    "in-weight rank",
    "out-weight rank",
    "page rank",
    "reverse page rank",
    "activation rank",
    "frequency",
    "layer",
    "role",
    "log size",
    "level",
    *(f"is {kind}" for kind in NODE_KINDS),
)
EDGE_FEATURES = ("log share of the target's input", "log share of the source's output", "sign")
_LOG_FLOOR = -8.0
_TINY = 1e-300
_DAMPING = 0.85


@dataclass(frozen=True)
class LevelGraph:
    """One level as tensors for the network."""

    nodes: Float[Tensor, "cluster feature"]
    edges: Int[Tensor, "2 edge"]
    edge_features: Float[Tensor, "edge 3"]


def level_graphs(graph: AttributionGraph, hierarchy: Hierarchy) -> Iterator[LevelGraph]:
    """Describe the groups of every level, finest (the nodes themselves) first."""
    number = {role: i / max(len(graph.roles) - 1, 1) for i, role in enumerate(graph.roles)}
    places = np.array([[max(node.layer, 0) / max(graph.n_layers, 1), number[node.role]] for node in graph.nodes])
    codes = np.array([NODE_KINDS.index(node.kind) for node in graph.nodes])
    kinds = (codes[:, None] == np.arange(len(NODE_KINDS))).astype(float)
    for level in range(len(hierarchy.parents) + 1):
        depth = level / max(len(hierarchy.parents), 1)
        yield _describe(graph, np.asarray(hierarchy.members(level)), depth, np.hstack([places, kinds]))


def _describe(
    graph: AttributionGraph, members: Int[np.ndarray, " node"], depth: float, fixed: Float[np.ndarray, "node column"]
) -> LevelGraph:
    """Describe groups, given each node's group; `fixed` holds layer, role and kind, averaged over members."""
    n = int(members.max()) + 1
    source, target, weight, strength = quotient(graph, members, n)
    size = np.bincount(members, minlength=n).astype(float)

    def summed(values: Float[np.ndarray, " node"]) -> Float[np.ndarray, " cluster"]:
        return np.bincount(members, values, minlength=n)

    score, influence = summed(graph.statistics["score_abs"]), summed(graph.statistics["influence"])
    inward, outward = np.bincount(target, strength, minlength=n), np.bincount(source, strength, minlength=n)
    means = [summed(column) / size for column in fixed.T]
    columns = [
        _rank(score),
        _log_share(score, score.sum()),
        summed(graph.statistics["score"]) / np.maximum(score, _TINY),
        _rank(influence),
        _log_share(influence, influence.sum()),
        _rank(np.bincount(target, minlength=n).astype(float)),
        _rank(np.bincount(source, minlength=n).astype(float)),
        _rank(inward),
        _rank(outward),
        _rank(_page_rank(source, target, strength, n)),
        _rank(_page_rank(target, source, strength, n)),
        _rank(summed(graph.statistics["activation"]) / size),
        summed(graph.statistics["frequency"]) / size,
        *means[:2],
        np.log(size) / np.log(max(len(graph.nodes), 2)),
        np.full(n, depth),
        *means[2:],
    ]
    edge_features = [
        _log_share(strength, inward[target]),
        _log_share(strength, outward[source]),
        weight / np.maximum(strength, _TINY),
    ]
    return LevelGraph(
        torch.from_numpy(np.stack(columns, axis=1)).float(),
        torch.from_numpy(np.stack([source, target])).long(),
        torch.from_numpy(np.stack(edge_features, axis=1)).float(),
    )


def quotient(
    graph: AttributionGraph, members: Int[np.ndarray, " node"], n: int
) -> tuple[Int[np.ndarray, " edge"], Int[np.ndarray, " edge"], Float[np.ndarray, " edge"], Float[np.ndarray, " edge"]]:
    """Sum edges between groups; edges inside a group vanish."""
    source, target = members[graph.source], members[graph.target]
    across = source != target
    keys, inverse = np.unique(source[across].astype(np.int64) * n + target[across], return_inverse=True)
    weight = np.bincount(inverse, graph.weight[across], minlength=len(keys))
    strength = np.bincount(inverse, graph.weight_abs[across], minlength=len(keys))
    return keys // n, keys % n, weight, strength


def _rank(values: Float[np.ndarray, " node"]) -> Float[np.ndarray, " node"]:
    """Give ranks in [0, 1], ties sharing their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - (counts + 1) / 2) / max(len(values) - 1, 1))[inverse]


def _log_share(
    part: Float[np.ndarray, " entry"], whole: Float[np.ndarray, " entry"] | float
) -> Float[np.ndarray, " entry"]:
    """Give log10(part / whole), clipped and scaled to [-1, 0]."""
    share = part / np.maximum(whole, _TINY)
    return np.clip(np.log10(np.maximum(share, 10.0**_LOG_FLOOR)), _LOG_FLOOR, 0.0) / -_LOG_FLOOR


def _page_rank(
    source: Int[np.ndarray, " edge"], target: Int[np.ndarray, " edge"], weight: Float[np.ndarray, " edge"], n: int
) -> Float[np.ndarray, " node"]:
    """Give PageRank on a weighted acyclic graph by power iteration."""
    out = np.maximum(np.bincount(source, weight, minlength=n), _TINY)
    rank = np.full(n, 1.0 / n)
    for _ in range(30):
        rank = (1 - _DAMPING) / n + _DAMPING * np.bincount(target, rank[source] * weight / out[source], minlength=n)
    return rank
