"""Cycles are found, and depths are longest paths."""

import networkx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hagd.errors import InvalidInputError
from hagd.graphs.acyclic import depths, is_acyclic, quotient_edges, require_acyclic

EDGES = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=15)


@given(EDGES)
def test_cycles_agree_with_networkx(edges: list[tuple[int, int]]) -> None:
    source, target = np.array(edges, dtype=np.int64).reshape(-1, 2).T
    reference = networkx.DiGraph(edges)
    assert is_acyclic(7, source, target) == networkx.is_directed_acyclic_graph(reference)


def test_depth_is_the_longest_path_to_a_node() -> None:
    found = depths(5, np.array([0, 1, 0, 3]), np.array([1, 2, 2, 4]))
    assert found is not None
    assert found.tolist() == [0, 1, 2, 0, 1]


def test_a_cycle_is_refused_with_a_hint() -> None:
    with pytest.raises(InvalidInputError, match="cycle") as caught:
        require_acyclic(2, np.array([0, 1]), np.array([1, 0]))
    assert "place in the network" in caught.value.hint


def test_quotient_edges_sum_weights_between_groups_and_drop_those_inside() -> None:
    source, target, weight = quotient_edges(
        np.array([0, 1, 0, 2]), np.array([2, 3, 1, 3]), np.array([1.0, 2.0, 5.0, 7.0]), np.array([0, 0, 1, 2])
    )
    assert source.tolist() == [0, 0, 1]
    assert target.tolist() == [1, 2, 2]
    assert weight.tolist() == [1.0, 2.0, 7.0]


def test_a_quotient_without_edges_has_real_weights_all_the_same() -> None:
    nothing = np.zeros(0, dtype=np.int64)
    source, target, weight = quotient_edges(nothing, nothing, np.zeros(0), np.array([0, 0, 1]))
    assert (len(source), len(target), weight.dtype) == (0, 0, np.float64)
