"""Order and cycles of directed graphs given as edge arrays.

A circuit is read from tokens to logits, so every level of a hierarchy must again be a graph without cycles.
"""

import numpy as np
from jaxtyping import Float, Int

from hagd.errors import InvalidInputError


def depths(
    n_nodes: int, source: Int[np.ndarray, " edge"], target: Int[np.ndarray, " edge"]
) -> Int[np.ndarray, " node"] | None:
    """Give the length of the longest path that ends in each node, or None if the graph has a cycle.

    Kahn's algorithm, one round per depth. A self-loop is a cycle.
    """
    depth = np.zeros(n_nodes, dtype=np.int64)
    waiting = np.bincount(target, minlength=n_nodes)
    order = np.argsort(source, kind="stable")
    targets = target[order]
    starts = np.searchsorted(source[order], np.arange(n_nodes + 1))
    ready = np.flatnonzero(waiting == 0)
    done = 0
    level = 0
    while len(ready):
        depth[ready] = level
        done += len(ready)
        reached = np.concatenate([targets[starts[node] : starts[node + 1]] for node in ready])
        waiting -= np.bincount(reached, minlength=n_nodes)
        candidates = np.unique(reached)
        ready = candidates[waiting[candidates] == 0]
        level += 1
    return depth if done == n_nodes else None


def is_acyclic(n_nodes: int, source: Int[np.ndarray, " edge"], target: Int[np.ndarray, " edge"]) -> bool:
    """Tell whether no path returns to its start."""
    return depths(n_nodes, source, target) is not None


def require_acyclic(n_nodes: int, source: Int[np.ndarray, " edge"], target: Int[np.ndarray, " edge"]) -> None:
    """Refuse a graph with a cycle.

    Raises:
        InvalidInputError: there is one.
    """
    if not is_acyclic(n_nodes, source, target):
        raise InvalidInputError(
            "the graph has a cycle, so it has no order from tokens to logits",
            "group only nodes of one place in the network",
        )


def quotient_edges(
    source: Int[np.ndarray, " edge"],
    target: Int[np.ndarray, " edge"],
    weight: Float[np.ndarray, " edge"],
    groups: Int[np.ndarray, " node"],
) -> tuple[Int[np.ndarray, " pair"], Int[np.ndarray, " pair"], Float[np.ndarray, " pair"]]:
    """Sum the edges between groups of nodes; edges inside a group are left out.

    Result: source group, target group and summed weight, sorted by (source, target).
    """
    start, end = groups[source], groups[target]
    outside = start != end
    n_groups = int(groups.max(initial=-1)) + 1
    keys, inverse = np.unique(start[outside] * n_groups + end[outside], return_inverse=True)
    # Without edges bincount forgets its weights and counts in integers.
    summed = np.bincount(inverse, weights=weight[outside], minlength=len(keys)).astype(np.float64)
    return keys // max(n_groups, 1), keys % max(n_groups, 1), summed
