"""Both trees of the hierarchy: counts, blocks, acyclic quotients at every level, planted groups found again."""

from dataclasses import replace

import networkx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Int

from hagd.errors import InvalidInputError
from hagd.graphs.acyclic import quotient_edges
from hagd.graphs.hierarchy import Hierarchy
from hagd_coarsening.domain.balanced import split_balanced
from hagd_coarsening.domain.execution_tree import allot
from hagd_coarsening.domain.hierarchy import HierarchyConfig, build_hierarchy, measure, similarity_of
from hagd_coarsening.domain.task_graph import GraphConfig, build_task_graph
from unit.hagd_coarsening.planted_graphs import agreement, layered_graph
from unit.hagd_coarsening.tiny import tiny_subject, tiny_task

GRAPHS = {
    "one layer of features": layered_graph(1, 3, 4, 61, 5),
    "three layers, two refined": layered_graph(3, 5, 3, 13, 3),
    "one position": layered_graph(2, 1, 2, 7, 2),
}


@pytest.fixture(scope="module", params=[(name, b) for name in GRAPHS for b in (2, 4)], ids=str)
def built(request: pytest.FixtureRequest) -> tuple[str, Hierarchy]:
    name, branching = request.param
    return name, build_hierarchy(GRAPHS[name], HierarchyConfig(branching=branching, n_vectors=8))


def test_every_level_has_a_branching_th_of_the_groups_below_rounded_up(built: tuple[str, Hierarchy]) -> None:
    name, hierarchy = built
    n_groups = GRAPHS[name].n_nodes
    assert hierarchy.levels[0].n_groups == n_groups
    for parent, report in zip(hierarchy.parents, hierarchy.levels[1:], strict=True):
        assert len(parent) == n_groups
        n_groups = max(-(-n_groups // hierarchy.branching), 4)
        assert report.n_groups == n_groups
    assert n_groups <= 2 * hierarchy.branching


def test_the_quotient_has_no_cycle_at_any_level(built: tuple[str, Hierarchy]) -> None:
    name, hierarchy = built
    graph = GRAPHS[name]
    for level in range(len(hierarchy.levels)):
        groups = hierarchy.members(level)
        source, target, _ = quotient_edges(graph.source, graph.target, graph.weight_abs, groups)
        edges = zip(source.tolist(), target.tolist(), strict=True)
        assert networkx.is_directed_acyclic_graph(networkx.DiGraph(edges))
        assert (source < target).all()


def test_the_graph_of_a_model_with_parallel_blocks_has_no_cycle_at_any_level_either() -> None:
    graph = build_task_graph(tiny_subject("gpt_neox"), tiny_task(), GraphConfig())
    hierarchy = build_hierarchy(graph, HierarchyConfig(branching=2, n_vectors=8))
    for level in range(len(hierarchy.levels)):
        source, target, _ = quotient_edges(graph.source, graph.target, graph.weight_abs, hierarchy.members(level))
        assert (source < target).all()


def test_low_levels_stay_inside_one_layer_kind_and_role_and_some_kinds_always_apart(
    built: tuple[str, Hierarchy],
) -> None:
    name, hierarchy = built
    nodes = GRAPHS[name].nodes
    for level in range(len(hierarchy.levels)):
        groups = hierarchy.members(level)
        for group in range(hierarchy.levels[level].n_groups):
            members = [nodes[i] for i in np.flatnonzero(groups == group)]
            for kind in ("token", "error", "logit"):
                assert {node.kind == kind for node in members} in ({True}, {False})
            if level == 1 and members[0].kind == "feature" and name != "one position":
                assert len({(node.layer, node.kind, node.role) for node in members}) == 1
                assert len(members) <= 2 * hierarchy.branching


def test_equal_seeds_give_equal_hierarchies() -> None:
    first, second = (build_hierarchy(GRAPHS["three layers, two refined"], HierarchyConfig()) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first.parents, second.parents, strict=True))
    assert np.array_equal(first.module_labels, second.module_labels)


def test_both_trees_find_planted_modules_and_shuffled_labels_do_not_fit() -> None:
    graph = layered_graph(5, 1, 5, 40, 5, seed=4)
    hierarchy = build_hierarchy(graph, HierarchyConfig(branching=4, n_vectors=8))
    features = np.array([node.kind == "feature" for node in graph.nodes])
    module = np.array([node.index % 5 for node in graph.nodes])[features]
    assert agreement(hierarchy.module_labels[features], module) > 0.85
    groups = hierarchy.members(1)[features]
    assert purity(groups, module) > 0.75
    assert purity(groups, np.random.default_rng(0).permutation(module)) < 0.6


def purity(groups: Int[np.ndarray, " node"], module: Int[np.ndarray, " node"]) -> float:
    """Give the mean share of a group's most frequent module; about .5 by chance for groups of four, five modules."""
    return float(np.mean([np.bincount(module[groups == g]).max() / (groups == g).sum() for g in np.unique(groups)]))


def test_functional_affinity_groups_by_output_effects_that_the_structure_does_not_show() -> None:
    graph = layered_graph(1, 1, 2, 48, 1, seed=5)
    generator = np.random.default_rng(0)
    kinds = np.array([node.index % 12 if node.kind == "feature" else -1 for node in graph.nodes])
    effects = np.eye(12)[kinds] * generator.choice([-1.0, 1.0], len(kinds))[:, None] * (kinds >= 0)[:, None]
    config = HierarchyConfig(affinity="functional", n_vectors=24)
    features = kinds >= 0
    groups = build_hierarchy(graph, config, effects).members(1)[features]
    assert groups.max() - groups.min() + 1 < 12
    assert agreement(groups, kinds[features]) > 0.5
    blind = build_hierarchy(graph, replace(config, affinity="log1p")).members(1)[features]
    assert agreement(blind, kinds[features]) < 0.2


def test_the_functional_affinity_without_effects_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="effects"):
        build_hierarchy(GRAPHS["one position"], HierarchyConfig(affinity="functional"))


def test_the_module_view_reports_weight_in_cycles_and_the_execution_tree_has_none() -> None:
    hierarchy = build_hierarchy(layered_graph(3, 2, 3, 20, 4), HierarchyConfig())
    assert hierarchy.module_report.cyclic_weight > 0.5
    assert all(report.cyclic_weight == 0 for report in hierarchy.levels)
    assert all(report.residual < 1e-6 for report in hierarchy.levels)


def test_reports_measure_the_cut_on_the_affinity() -> None:
    graph = GRAPHS["one position"]
    similarity = similarity_of(graph, HierarchyConfig(affinity="raw"), None)
    labels = np.arange(graph.n_nodes) % 3
    dense = similarity.toarray()
    inside = [dense[np.ix_(labels == g, labels == g)].sum() for g in range(3)]
    volume = [dense[labels == g].sum() for g in range(3)]
    report = measure(similarity, labels)
    assert report.normalised_cut == pytest.approx(sum((v - i) / v for v, i in zip(volume, inside, strict=True)))
    assert report.intra_weight == pytest.approx(sum(inside) / dense.sum())
    assert report.largest == -(-graph.n_nodes // 3)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=9), st.integers(2, 5), st.data())
def test_groups_are_allotted_exactly_and_never_more_than_members(
    sizes: list[int], branching: int, data: st.DataObject
) -> None:
    wanted = data.draw(st.integers(len(sizes), sum(sizes)))
    shares = allot(sizes, wanted, branching)
    assert sum(shares) == wanted
    assert all(1 <= share <= size for share, size in zip(shares, sizes, strict=True))


@given(st.integers(1, 40), st.data())
def test_balanced_groups_differ_by_at_most_one(n_points: int, data: st.DataObject) -> None:
    n_groups = data.draw(st.integers(1, n_points))
    points = np.random.default_rng(n_points).normal(size=(n_points, 3))
    labels = split_balanced(points, n_groups)
    sizes = np.bincount(labels, minlength=n_groups)
    assert len(sizes) == n_groups
    assert sizes.max() - sizes.min() <= 1


def test_balanced_groups_find_tight_clumps() -> None:
    clumps = np.repeat(np.eye(5) * 10, 4, axis=0) + np.random.default_rng(1).normal(size=(20, 5)) * 0.1
    order = np.random.default_rng(2).permutation(20)
    labels = split_balanced(clumps[order], 5)
    assert agreement(labels, np.repeat(np.arange(5), 4)[order]) == 1.0
