"""Bits by hand."""

from dataclasses import replace
from math import comb, log2

import pytest

from hagd.graphs.circuit import CircuitNode
from hagd_verification.domain.description_length import description_length, log2_binomial, subset_bits
from hagd_verification.domain.frontier import Frontier
from unit.hagd_verification.lookup import NEURONS, feature, lookup_circuit, lookup_subject, lookup_task


@pytest.mark.parametrize(("n", "k"), [(5, 2), (19, 0), (19, 19), (300, 7)])
def test_a_subset_costs_the_logarithm_of_its_number(n: int, k: int) -> None:
    assert log2_binomial(n, k) == pytest.approx(log2(comb(n, k)), abs=1e-9)
    assert subset_bits(n, k) == pytest.approx(log2(comb(n, k)) + log2(n + 1))


def test_a_circuit_costs_its_places_nodes_and_edges() -> None:
    subject, task = lookup_subject(), lookup_task()
    frontier = Frontier.of(lookup_circuit([1, 2, 3]), subject.model, subject.dictionaries, task)
    places = subset_bits(2, 2)
    tokens, heads, errors = subset_bits(2, 1), subset_bits(4, 0), subset_bits(2, 0)
    features = subset_bits(2 * NEURONS, 3)
    edges = subset_bits(17, 6)
    found = description_length(frontier, 6, 17)
    assert found == pytest.approx(places + tokens + heads + errors + features + edges)


def test_supernodes_cost_the_bits_that_say_which_leaf_is_in_which() -> None:
    subject, task = lookup_subject(), lookup_task()
    plain = lookup_circuit([1, 2, 3, 4])
    leaves = tuple(feature(i) for i in (1, 2, 3))
    grouped = CircuitNode("supernode.0@x", "supernode", 0, "x", leaves, 3, False, 1.0)
    circuit = replace(plain, nodes=(plain.nodes[0], grouped, plain.nodes[4]), size=3)
    singles = Frontier.of(plain, subject.model, subject.dictionaries, task)
    supernode = Frontier.of(circuit, subject.model, subject.dictionaries, task)
    assert supernode.leaves() == singles.leaves() == 5
    difference = description_length(supernode, 0, 9) - description_length(singles, 0, 9)
    assert difference == pytest.approx(4 * log2(2))  # four leaves, each in the one supernode or alone
