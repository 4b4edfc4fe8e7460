"""The results of the toy stages: a graph of four nodes in one layer, its hierarchy, circuits, evidence."""

from typing import Any

import numpy as np

from hagd.graphs.attribution_graph import AttributionGraph
from hagd.graphs.circuit import Circuit, CircuitEdge, CircuitNode
from hagd.graphs.hierarchy import Hierarchy, LevelReport
from hagd.graphs.nodes import Node

NODES = (Node("token", -1, "a"), Node("head", 0, "eq", 1), Node("feature", 0, "eq", 5), Node("logit", 1, "eq"))
GRAPH = AttributionGraph(
    nodes=NODES,
    roles=("a", "eq"),
    n_layers=1,
    source=np.array([0, 1, 2]),
    target=np.array([1, 2, 3]),
    weight=np.array([0.5, -0.25, 2.0]),
    weight_abs=np.array([0.5, 0.375, 2.0]),
    statistics={
        name: np.array([0.125, 0.25, 0.5, 1.0])
        for name in ("score", "score_abs", "activation", "frequency", "influence")
    },
    n_prompts=7,
)
_LEVEL = LevelReport(4, 0.5, 0.25, 2, 0.0, 0.01, 1.0, 0.0)
HIERARCHY = Hierarchy(
    parents=(np.array([0, 1, 1, 2]),),
    levels=(_LEVEL,),
    module_labels=np.array([0, 1, 1, 2]),
    module_report=_LEVEL,
    branching=2,
)


def circuit(size: int) -> Circuit:
    """Give the nested family with `size` nodes chosen, at most three."""
    nodes = tuple(
        CircuitNode(str(node), node.kind, node.layer, node.role, (node,), 1, False, 1.0 / (rank + 1))
        for rank, node in enumerate(NODES[2::-1])
    )
    edges = (CircuitEdge("feature.0.5@eq", "logit@eq", 2.0), CircuitEdge("head.0.1@eq", "feature.0.5@eq", -0.25))
    return Circuit(nodes, min(size, 3), edges, 2 if size > 1 else 1, {0: ("eq",)}, 123, ({"nodes": 3.0},))


EVIDENCE: dict[str, Any] = {
    "verdict": "verified",
    "scope": "feature-level",
    "model": {"digest": "0" * 64, "quantisation": "none", "bos": False},
    "circuit": {"nodes": 3, "edges": 2, "by_kind": {"head": 1}, "leaves": 3, "description_length_bits": 17.5},
    "headline": {
        "behavioural_preservation": 0.975,
        "chance": 0.01,
        "ci95": [0.95, 0.99],
        "faithfulness": 0.98,
        "kl_nats": 0.03,
        "n": 211,
        "seed": 0,
    },
    "edges_only": {"behavioural_preservation": 0.9, "random_mean": 0.1},
    "curve": [{"nodes": 1, "leaves": 1, "behavioural_preservation": 0.5, "faithfulness": 0.25}],
    "negative_controls": [{"name": "permuted scores", "verdict": "refuted", "expected": "refuted"}],
    "random_control": {
        "uniform": {"mean": 0.01, "q95": 0.02, "p": 0.001},
        "matched": {"mean": 0.05, "q95": 0.1, "p": 0.001},
    },
    "settings": [
        {
            "ablation": "mean",
            "errors": "corrupted",
            "attention": "live",
            "behavioural_preservation": 0.98,
            "faithfulness": 0.97,
            "kl_nats": 0.02,
        }
    ],
    "feature_mediated_share": 0.75,
    "error_credit": 0.01,
    "tost_p": 0.001,
    "command": "",
}
