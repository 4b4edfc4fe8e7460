"""Influence is what a hand-made graph says it is."""

import numpy as np
import pytest

from hagd.graphs.influence import edge_influence, node_influence, prune, select_nodes
from unit.graphs.planted import chain_graph


def test_influence_is_the_share_of_all_paths_into_the_logit() -> None:
    assert node_influence(chain_graph()) == pytest.approx([0.5, 3 / 8, 1 / 8, 4 / 8, 1.0])


def test_edge_influence_sums_to_the_influence_of_the_source() -> None:
    graph = chain_graph()
    through = edge_influence(graph)
    out = np.bincount(graph.source, weights=through, minlength=graph.n_nodes)
    assert out[:4] == pytest.approx(node_influence(graph)[:4])


def test_influence_may_be_asked_for_on_another_node() -> None:
    assert node_influence(chain_graph(), 1) == pytest.approx([1.0, 1.0, 0.0, 0.0, 0.0])


def test_pruning_keeps_the_strongest_nodes_and_always_tokens_and_the_logit() -> None:
    kept = prune(chain_graph(), node_share=0.7, edge_share=1.0)
    assert [str(node) for node in kept.nodes] == ["token@a", "error.0@a", "logit@a"]
    assert kept.source.tolist() == [1]
    assert kept.target.tolist() == [2]


def test_a_subgraph_renumbers_its_edges_and_statistics() -> None:
    graph = chain_graph()
    part = select_nodes(graph, np.array([True, False, True, False, True]))
    assert part.source.tolist() == [0, 1]
    assert part.target.tolist() == [1, 2]
    assert part.weight.tolist() == [-0.5, -1.0]
    assert part.statistics["score"].tolist() == [1.0, -3.0, 5.0]
