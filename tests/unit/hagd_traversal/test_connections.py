"""Edges come from the graph, strongest first, and as few are claimed as preserve the behaviour."""

from collections.abc import Sequence

import numpy as np
import pytest

from hagd.graphs.attribution_graph import AttributionGraph
from hagd.graphs.circuit import CircuitEdge, CircuitNode
from hagd.graphs.nodes import Node
from hagd.interventions.edges import admissible, evaluate_edges
from hagd.interventions.evaluation import HEADLINE
from hagd_traversal.domain.connections import candidate_edges, choose_edges, edge_circuit
from unit.hagd_traversal.planted import ROLES, WRITING_HEAD, WRITING_NEURONS, Planted, planted

LOGIT = Node("logit", 2, "eq")
HEAD = Node("head", 0, "eq", WRITING_HEAD)
TOKENS = [Node("token", -1, role) for role in ROLES]
FEATURES = [Node("feature", 1, "eq", neuron) for neuron in WRITING_NEURONS]


def single(leaf: Node) -> CircuitNode:
    return CircuitNode(str(leaf), leaf.kind, leaf.layer, leaf.role, (leaf,), 1, False, 0.0)


def graph_of(leaves: list[Node], weights: dict[tuple[Node, Node], tuple[float, float]]) -> AttributionGraph:
    nodes = [*leaves, LOGIT]
    ends = np.array([[nodes.index(source), nodes.index(target)] for source, target in weights]).T
    values = np.array(list(weights.values())).T
    return AttributionGraph(tuple(nodes), ROLES, 2, ends[0], ends[1], values[0], values[1], {}, 64)


def test_edges_of_a_supernode_are_the_sums_of_its_leaves_edges_and_inner_ones_are_left_out() -> None:
    leaves = [HEAD, *FEATURES]
    weights = {(HEAD, feature): (float(i), float(i)) for i, feature in enumerate(FEATURES, start=1)}
    weights |= {(FEATURES[0], LOGIT): (2.0, 2.0), (FEATURES[1], LOGIT): (-3.0, 3.0)}
    together = CircuitNode("supernode.1@eq", "supernode", 1, "eq", tuple(FEATURES), 3, False, 0.0)
    found = candidate_edges(graph_of(leaves, weights), [single(HEAD), together])
    assert found == [
        CircuitEdge(str(HEAD), together.id, 6.0),
        CircuitEdge(together.id, str(LOGIT), -1.0),
    ], "strongest by the mean of the absolute value, though the signed weights cancel"


def test_a_feature_that_the_graph_does_not_resolve_has_the_edges_of_its_block() -> None:
    block = Node("mlp", 1, "eq")
    found = candidate_edges(graph_of([HEAD, block], {(HEAD, block): (1.5, 1.5)}), [single(HEAD), single(FEATURES[2])])
    assert found == [CircuitEdge(str(HEAD), str(FEATURES[2]), 1.5)]


@pytest.mark.parametrize("useful_first", [True, False])
def test_the_claimed_edges_preserve_what_all_do(useful_first: bool) -> None:
    toy = planted()
    silent = [Node("head", 0, "eq", 0), Node("head", 0, "eq", 2)]
    leaves = [*TOKENS, HEAD, *silent, *FEATURES]
    possible = admissible(
        [(leaf,) for leaf in leaves], [toy.task.batches["select"][0].layout], toy.subject.model.config
    )
    pairs = [(leaves[s], (*leaves, LOGIT)[t]) for t, s in possible.nonzero().tolist()]
    useless = {pair for pair in pairs if set(pair) & set(silent)}
    strengths = {pair: 2.0 if (pair not in useless) == useful_first else 1.0 for pair in pairs}
    graph = graph_of(leaves, {pair: (value, value) for pair, value in strengths.items()})
    nodes = [single(leaf) for leaf in leaves]
    edges, claimed, spent = choose_edges(graph, nodes, toy.prepared)
    assert len(edges) == len(pairs)
    assert preserved(toy, nodes, edges[:claimed]) >= 0.97 * preserved(toy, nodes, edges)
    assert spent % (4 * 64) == 0
    if useful_first:
        assert claimed < len(edges)


def preserved(toy: Planted, nodes: list[CircuitNode], edges: Sequence[CircuitEdge]) -> float:
    circuit = edge_circuit(nodes, edges)
    return min(float(evaluate_edges(toy.prepared, circuit, it.ablation).agreement.mean()) for it in HEADLINE)
