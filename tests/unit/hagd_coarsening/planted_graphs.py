"""Graphs with planted structure: layered attribution graphs and stochastic block models."""

import numpy as np
from jaxtyping import Int
from scipy import sparse

from hagd.graphs.attribution_graph import AttributionGraph
from hagd_coarsening.domain.node_table import build_table


def block_model(
    n_nodes: int, n_clusters: int, inside: float, outside: float, seed: int = 0
) -> tuple[sparse.csr_array, Int[np.ndarray, " node"]]:
    """Give a stochastic block model with mean degrees `inside` and `outside`, and the planted labels."""
    generator = np.random.default_rng(seed)
    labels = np.arange(n_nodes) % n_clusters
    n_in, n_out = int(n_nodes * inside / 2), int(n_nodes * outside / 2)
    first = generator.integers(0, n_nodes, n_in)
    partner = labels[first] + n_clusters * generator.integers(0, n_nodes // n_clusters, n_in)
    rows = np.concatenate([first, generator.integers(0, n_nodes, n_out)])
    columns = np.concatenate([partner, generator.integers(0, n_nodes, n_out)])
    one_way = sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=(n_nodes, n_nodes))
    both = one_way + one_way.T
    return sparse.csr_array(both - sparse.diags_array(both.diagonal())), labels


def layered_graph(
    n_layers: int, roles: int, heads: int, features: int, modules: int, seed: int = 0
) -> AttributionGraph:
    """Give a dense layered graph whose features belong to modules: edges inside a module are ten times stronger."""
    generator = np.random.default_rng(seed)
    names = tuple(f"role{i}" for i in range(roles))
    live = {layer: np.ones((roles, features), dtype=bool) for layer in range(0, n_layers, 2)}
    table = build_table(names, names[-1], n_layers=n_layers, n_heads=heads, live=live, skips=frozenset({0}))
    module = np.array([node.index % modules for node in table.nodes])
    n_nodes = len(table.nodes)
    pairs = np.argwhere(table.stages[:, None] < table.stages[None, :])
    reads = np.array([node.kind not in {"token", "error"} for node in table.nodes])
    pairs = pairs[reads[pairs[:, 1]] & (generator.random(len(pairs)) < 0.4)]
    pairs = pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]
    weight = generator.normal(size=len(pairs)) * np.where(module[pairs[:, 0]] == module[pairs[:, 1]], 10.0, 1.0)
    return AttributionGraph(
        nodes=table.nodes,
        roles=names,
        n_layers=n_layers,
        source=pairs[:, 0],
        target=pairs[:, 1],
        weight=weight,
        weight_abs=abs(weight),
        statistics={"score_abs": generator.random(n_nodes)},
        n_prompts=1,
    )


def agreement(found: Int[np.ndarray, " node"], planted: Int[np.ndarray, " node"]) -> float:
    """Give the adjusted Rand index of two labelings: 1 for equal ones, about 0 for unrelated ones."""
    table = np.zeros((found.max() + 1, planted.max() + 1))
    np.add.at(table, (found, planted), 1)

    def pairs(counts: np.ndarray) -> float:
        return float((counts * (counts - 1) / 2).sum())

    both, one, other, total = pairs(table), pairs(table.sum(1)), pairs(table.sum(0)), pairs(np.array([len(found)]))
    expected = one * other / total
    return (both - expected) / ((one + other) / 2 - expected)
