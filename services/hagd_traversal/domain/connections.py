"""Edges of a circuit: taken from the attribution graph between kept nodes, their number chosen on D_select."""

from bisect import bisect_left
from collections.abc import Sequence

import torch

from hagd.graphs.attribution_graph import AttributionGraph
from hagd.graphs.circuit import CircuitEdge, CircuitNode
from hagd.graphs.nodes import Node
from hagd.interventions.edges import EdgeCircuit, evaluate_edges
from hagd.interventions.evaluation import HEADLINE, Prepared

_SHARES = (0.05, 0.1, 0.2, 0.3, 0.45, 0.65, 1.0)
_KEPT_SHARE = 0.97
"""Share of the preservation of all candidate edges that the chosen edges must keep on D_select."""


def candidate_edges(graph: AttributionGraph, nodes: Sequence[CircuitNode]) -> list[CircuitEdge]:
    """Give the graph's edges between frontier nodes (and into the logit), summed over leaves, strongest first.

    A feature of a block that the graph does not resolve inherits the edges of its block.
    """
    position = {node: i for i, node in enumerate(graph.nodes)}
    owners: dict[int, list[str]] = {}
    for node in nodes:
        places = {_place(position, leaf) for leaf in node.leaves}
        for place in places:
            if place is not None:
                owners.setdefault(place, []).append(node.id)
    for place, node in enumerate(graph.nodes):
        if node.kind == "logit":
            owners[place] = [str(node)]
    weights: dict[tuple[str, str], tuple[float, float]] = {}
    rows = zip(
        graph.source.tolist(), graph.target.tolist(), graph.weight.tolist(), graph.weight_abs.tolist(), strict=True
    )
    for source, target, weight, strength in rows:
        for first in owners.get(source, ()):
            for second in owners.get(target, ()):
                if first != second:
                    old = weights.get((first, second), (0.0, 0.0))
                    weights[first, second] = (old[0] + weight, old[1] + strength)
    ranked = sorted(weights.items(), key=lambda item: (-item[1][1], item[0]))
    return [CircuitEdge(source, target, weight) for (source, target), (weight, _) in ranked]


def choose_edges(
    graph: AttributionGraph, nodes: Sequence[CircuitNode], select: Prepared
) -> tuple[tuple[CircuitEdge, ...], int, int]:
    """Give the candidate edges, how many of the strongest suffice, and the evaluations spent.

    Sufficient is a share of edges that keeps `_KEPT_SHARE` of the preservation of all of them, judged by the headline
    on D_select with only these edges live; the smallest one, by bisection, as far as more edges preserve more.
    """
    edges = candidate_edges(graph, nodes)
    counts = [round(share * len(edges)) for share in _SHARES]
    enough = _KEPT_SHARE * _preservation(select, edge_circuit(nodes, edges))
    tested: list[int] = []

    def suffices(count: int) -> bool:
        tested.append(count)
        return _preservation(select, edge_circuit(nodes, edges[:count])) >= enough

    chosen = counts[bisect_left(counts[:-1], True, key=suffices)]
    return tuple(edges), chosen, 4 * len(select.groups) * (1 + len(tested))


def edge_circuit(nodes: Sequence[CircuitNode], edges: Sequence[CircuitEdge]) -> EdgeCircuit:
    """Give the circuit that hears only through some edges; one into anything that is not a node ends in the logit."""
    number = {node.id: i for i, node in enumerate(nodes)}
    reads = torch.zeros(len(nodes) + 1, len(nodes), dtype=torch.bool)
    for edge in edges:
        reads[number.get(edge.target, len(nodes)), number[edge.source]] = True
    return EdgeCircuit(tuple(node.leaves for node in nodes), reads)


def _preservation(select: Prepared, circuit: EdgeCircuit) -> float:
    runs = [evaluate_edges(select, circuit, setting.ablation) for setting in HEADLINE]
    return min(float(run.agreement.mean()) for run in runs)


def _place(position: dict[Node, int], leaf: Node) -> int | None:
    if leaf in position:
        return position[leaf]
    return position.get(Node("mlp", leaf.layer, leaf.role))
