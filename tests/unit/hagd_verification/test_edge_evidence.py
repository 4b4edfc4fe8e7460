"""Edges between nodes, spread over leaves and put to the test."""

from dataclasses import replace

import numpy as np
import pytest

from hagd.errors import InvalidInputError
from hagd.graphs.circuit import CircuitEdge, CircuitNode
from hagd.interventions.evaluation import prepare
from hagd_verification.domain.edge_evidence import EdgePool, claimed_edges, measure_edges
from hagd_verification.domain.frontier import Frontier
from hagd_verification.domain.panel import Bill, Panel
from unit.hagd_verification.lookup import V, feature, lookup_circuit, lookup_subject, lookup_task

ALL = list(range(V))


def bench(circuit) -> tuple[Frontier, Panel, EdgePool]:
    subject, task = lookup_subject(), lookup_task()
    frontier = Frontier.of(circuit, subject.model, subject.dictionaries, task)
    panel = Panel.of(prepare(frontier.subject, frontier.universe, task, "verify", seed=0), Bill())
    return frontier, panel, EdgePool.of(frontier, panel)


def measured(circuit, draws: int = 5) -> dict:
    frontier, panel, pool = bench(circuit)
    return measure_edges(panel, panel.first(30, 1), frontier, pool, draws, 0, lambda _: None)


def test_only_true_pairs_are_admissible() -> None:
    _, _, pool = bench(lookup_circuit([4, 5]))
    assert pool.pairs.int().tolist() == [[0, 0, 0], [1, 0, 0], [1, 0, 0], [1, 1, 1]]


def test_all_edges_preserve_what_the_nodes_preserve_and_half_of_them_lose_it() -> None:
    circuit = lookup_circuit(ALL)
    whole = measured(circuit)
    assert whole["behavioural_preservation"] == 1
    assert whole["random_mean"] < 0.9
    assert (whole["edges"], whole["admissible"]) == (2 * V, 2 * V + 1)
    assert measured(replace(circuit, n_edges=V), 1)["behavioural_preservation"] == 0  # nothing reaches the logit


def test_only_claimed_edges_count() -> None:
    frontier, _, pool = bench(replace(lookup_circuit([4, 5]), n_edges=1))
    assert claimed_edges(frontier, pool).sum() == 1


def test_an_edge_of_a_supernode_is_an_edge_of_all_its_leaves() -> None:
    plain = lookup_circuit(ALL)
    grouped = CircuitNode("supernode.0@x", "supernode", 0, "x", tuple(map(feature, ALL)), V, False, 1.0)
    edges = (CircuitEdge("token@x", grouped.id, 1.0), CircuitEdge(grouped.id, "logit@x", 1.0))
    found = measured(replace(plain, nodes=(plain.nodes[0], grouped), size=2, edges=edges, n_edges=2), 2)
    assert found["behavioural_preservation"] == 1
    assert (found["edges"], found["admissible"]) == (2, 3)


def test_random_edges_are_as_many_and_admissible() -> None:
    _, _, pool = bench(lookup_circuit([4, 5, 6]))
    drawn = pool.random(4, np.random.default_rng(0))
    assert drawn.sum() == 4
    assert not (drawn & ~pool.pairs).any()


def test_an_edge_that_leaves_the_circuit_is_refused() -> None:
    circuit = lookup_circuit([4])
    frontier, _, pool = bench(replace(circuit, edges=(CircuitEdge("token@x", "feature.0.9@x", 1.0),), n_edges=1))
    with pytest.raises(InvalidInputError, match="leaves the circuit"):
        claimed_edges(frontier, pool)
