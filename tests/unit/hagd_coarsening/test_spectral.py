"""Affinities by hand, eigenvectors against a dense solver, planted clusters found again."""

import numpy as np
import pytest
from scipy import sparse

from hagd_coarsening.domain.modules import find_modules, modularity
from hagd_coarsening.domain.multilevel import embed, galerkin, match_heavy_edges
from hagd_coarsening.domain.spectral import affinity, degrees, functional_affinity, normalised_laplacian
from unit.graphs.planted import chain_graph
from unit.hagd_coarsening.planted_graphs import agreement, block_model


def test_affinity_is_symmetric_and_follows_the_weights() -> None:
    graph = chain_graph()
    raw = affinity(graph, "raw").toarray()
    assert np.array_equal(raw, raw.T)
    assert raw[0, 1] == 2.0
    assert raw[0, 2] == 0.5
    assert raw[1, 2] == 0.0
    assert affinity(graph, "log1p").toarray()[4, 1] == pytest.approx(np.log1p(3.0 / 2.0))
    assert affinity(graph, "row").toarray()[4, 1] == pytest.approx(3.0 / 8.0)


def test_functional_affinity_joins_opposite_effects_and_parts_orthogonal_ones() -> None:
    effects = np.array([[2.0, 0.0], [-1.0, 0.0], [0.0, 3.0], [1.0, 1.0], [0.0, 0.0]])
    likeness = functional_affinity(effects, power=4).toarray()
    assert likeness[0, 1] == pytest.approx(1.0)
    assert likeness[0, 2] == pytest.approx(0.0)
    assert likeness[2, 3] == pytest.approx(0.25)
    assert likeness[4].sum() == 0.0
    assert np.array_equal(likeness, likeness.T)


def test_an_odd_power_is_refused_because_it_would_part_opposite_effects() -> None:
    with pytest.raises(ValueError, match="even"):
        functional_affinity(np.eye(3), power=3)


def test_small_graphs_are_solved_exactly() -> None:
    similarity, _ = block_model(211, 5, 6, 3)
    found = embed(similarity, 7)
    dense = normalised_laplacian(similarity).toarray()
    assert found.n_levels == 1
    assert found.values == pytest.approx(np.linalg.eigvalsh(dense)[:7], abs=1e-9)
    assert found.residual < 1e-9
    assert np.abs(found.vectors.T @ found.vectors - np.eye(7)).max() < 1e-9


def test_the_multilevel_solver_reaches_the_dense_eigenvectors() -> None:
    similarity, _ = block_model(1500, 6, 14, 5, seed=3)
    found = embed(similarity, 6, exact_nodes=150)
    values, vectors = np.linalg.eigh(normalised_laplacian(similarity).toarray())
    assert found.n_levels > 3
    assert found.values == pytest.approx(values[:6], abs=1e-5)
    overlap = np.linalg.svd(found.vectors.T @ vectors[:, :6])[1]
    assert overlap.min() > 1 - 1e-4
    assert found.residual < 1e-3


def test_a_star_is_halved_although_matching_finds_one_pair() -> None:
    rows = np.zeros(100, dtype=int)
    star = sparse.csr_array((np.ones(100), (rows, np.arange(1, 101))), shape=(101, 101))
    groups = match_heavy_edges(sparse.csr_array(star + star.T), np.random.default_rng(0))
    assert groups.max() + 1 == 51
    assert np.bincount(groups).max() == 2


def test_a_quotient_keeps_degrees_by_its_self_loops() -> None:
    similarity, _ = block_model(60, 3, 4, 2)
    groups = np.arange(60) // 7
    quotient = galerkin(similarity, groups)
    assert degrees(quotient) == pytest.approx(np.bincount(groups, weights=degrees(similarity)))


@pytest.mark.parametrize("exact_nodes", [None, 120])
def test_planted_modules_are_found_without_being_told_their_number(exact_nodes: int | None) -> None:
    similarity, planted = block_model(1001 - 1001 % 7, 7, 14, 6, seed=1)
    labels = find_modules(similarity, embed(similarity, 16, exact_nodes=exact_nodes), seed=0)
    assert agreement(labels, planted) > 0.85
    shuffled = np.random.default_rng(0).permutation(planted)
    assert abs(agreement(labels, shuffled)) < 0.02


def test_a_graph_without_structure_has_no_modules_worth_the_name() -> None:
    similarity, planted = block_model(700, 7, 0, 20, seed=2)
    labels = find_modules(similarity, embed(similarity, 16), seed=0)
    assert abs(agreement(labels, planted)) < 0.02
    assert modularity(similarity, labels) < 0.25


def test_nodes_without_edges_share_a_module_and_do_not_spoil_the_others() -> None:
    similarity, planted = block_model(300, 3, 14, 3)
    wide = sparse.block_diag([similarity, sparse.csr_array((9, 9))], format="csr")
    labels = find_modules(sparse.csr_array(wide), embed(sparse.csr_array(wide), 8), seed=0)
    assert agreement(labels[:300], planted) > 0.95
    assert len(set(labels[300:].tolist())) == 1
