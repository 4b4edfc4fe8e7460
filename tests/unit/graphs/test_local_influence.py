"""Influence, pruning and scores on the rows alone equal the published definitions on square matrices."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hagd.errors import InvalidInputError
from hagd.graphs.local_graph import LocalGraph
from hagd.graphs.local_influence import column_influence, missed_influence, prune, score
from unit.graphs.local_graphs import influence_by_inverse, normalised, pruned_by_definition, random_graph


def square_and_weights(graph: LocalGraph) -> tuple[torch.Tensor, torch.Tensor]:
    weights = torch.zeros(graph.n_nodes)
    weights[-len(graph.targets) :] = torch.from_numpy(graph.weights)
    return torch.from_numpy(graph.adjacency()), weights


@pytest.mark.parametrize("n_heads", [0, 2])
@pytest.mark.parametrize("seed", range(5))
def test_influence_counts_all_paths(seed: int, n_heads: int) -> None:
    graph = random_graph(seed, n_heads=n_heads)
    expected = influence_by_inverse(*square_and_weights(graph))[: graph.rows.shape[1]]
    assert column_influence(graph) == pytest.approx(expected.numpy(), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("shares", [(0.8, 0.98), (0.5, 0.5), (0.95, 0.999), (1.0, 1.0), (0.0, 0.0)])
@pytest.mark.parametrize("n_heads", [0, 2])
@pytest.mark.parametrize("seed", range(5))
def test_what_is_kept_is_what_the_definition_keeps(seed: int, n_heads: int, shares: tuple[float, float]) -> None:
    graph = random_graph(seed, density=0.4, n_heads=n_heads)
    nodes, edges = pruned_by_definition(graph, *shares)
    found = prune(graph, *shares)
    assert found.nodes.tolist() == nodes.tolist()
    assert (found.edges == edges.numpy()[graph.rows_of_nodes()][:, : graph.rows.shape[1]]).all()


@pytest.mark.parametrize("n_heads", [0, 2])
def test_scores_are_those_published(n_heads: int) -> None:
    graph = random_graph(3, n_heads=n_heads)
    square, weights = square_and_weights(graph)
    influence = influence_by_inverse(square, weights)
    first, last = graph.n_features, graph.n_features + graph.n_errors
    tokens, errors = influence[last : last + graph.n_pos].sum(), influence[first:last].sum()
    found = score(graph)
    assert found.replacement == pytest.approx(float(tokens / (tokens + errors)), rel=1e-5)
    explained = 1 - normalised(square.double())[:, first:last].sum(1)
    reached = influence + weights
    assert found.completeness == pytest.approx(float((explained * reached).sum() / reached.sum()), rel=1e-5)
    assert sum(found.errors_by_layer) + found.replacement == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("n_heads", [0, 2])
def test_what_is_missed_is_what_flows_into_features_without_a_node(n_heads: int) -> None:
    graph = random_graph(1, n_heads=n_heads)
    assert missed_influence(graph) == 0
    gone = np.zeros(len(graph.rows), dtype=np.float32)
    gone[-1] = np.abs(graph.rows[-1]).sum()
    half = replace(graph, left_out_abs=gone)
    assert missed_influence(half) == pytest.approx(graph.targets[-1].weight / 2, rel=1e-5)


@pytest.mark.parametrize("shares", [(-0.1, 0.9), (0.5, 1.5), (float("nan"), 0.5)])
def test_shares_outside_of_nothing_and_all_are_refused(shares: tuple[float, float]) -> None:
    with pytest.raises(InvalidInputError, match="share"):
        prune(random_graph(), *shares)
