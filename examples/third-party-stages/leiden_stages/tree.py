"""An execution tree from communities: nested groups whose quotient is a graph without cycles at every level.

A level of n groups has exactly ceil(n / branching) parents. Communities span layers, and a group that does could feed
itself through another, so a community is cut along cells. Cells are blocks, that is one (kind, layer, role), while the
level has room for all of them, then columns, one (kind, layer): nodes of a column never feed each other. The next
level finds communities among groups, at a lower resolution, which is what makes the levels nested. When there are
fewer parents than columns, neighbours in the network's order are merged; tokens, errors and the logit stay apart.
"""

import heapq
from collections.abc import Hashable, Iterable

import numpy as np
from jaxtyping import Int

from hagd.graphs.attribution_graph import AttributionGraph
from leiden_stages.communities import Links, find_communities

_RESOLUTIONS = (1e-3, 1e4)
"""Between these the resolution of a level is looked for, by bisection."""
_STEPS = 10
_APART = {"token": 0, "error": 1, "logit": 3}
_REST = 2
"""Kinds that are never merged with others, in the order of their groups; what nothing flows into comes first."""


def build_tree(graph: AttributionGraph, branching: int, seed: int) -> list[Int[np.ndarray, " _"]]:
    """Give the parents of every level, up to at most 2 * branching groups or as few as the kinds allow.

    Groups are numbered so that all edges run from a smaller to a larger number, at every level.
    """
    links = Links.of(graph)
    cells = [
        _numbered((node.kind, node.layer, node.role) for node in graph.nodes),
        _numbered((node.kind, node.layer) for node in graph.nodes),
    ]
    apart = np.array([_APART.get(node.kind, _REST) for node in graph.nodes])
    parents: list[Int[np.ndarray, " _"]] = []
    while links.n_nodes > 2 * branching:
        wanted = -(-links.n_nodes // branching)
        while cells and cells[0].max() >= wanted:
            cells.pop(0)
        parent = _by_community(links, cells[0], branching, seed) if cells else _by_order(apart, wanted)
        if parent.max() + 1 == links.n_nodes:
            break
        parents.append(parent)
        links = links.between(parent)
        first = np.unique(parent, return_index=True)[1]
        cells, apart = [cell[first] for cell in cells], apart[first]
    return parents


def _by_community(
    links: Links, cells: Int[np.ndarray, " group"], branching: int, seed: int
) -> Int[np.ndarray, " group"]:
    """Give each group's parent.

    Two neighbouring resolutions are found, one with too few parts and one with enough. The parts of the finer one are
    merged inside those of the coarser one.
    """
    wanted = -(-links.n_nodes // branching)
    alone = _bundles(links, cells, branching)
    low, high = _RESOLUTIONS
    coarse, fine = cells, np.arange(links.n_nodes)
    for _ in range(_STEPS):
        middle = (low * high) ** 0.5
        communities = np.where(links.is_alone, alone, find_communities(links, middle, seed))
        found = _numbered(zip(cells.tolist(), communities.tolist(), strict=True))
        if found.max() + 1 >= wanted:
            high, fine = middle, found
        else:
            low, coarse = middle, found
    parts = _numbered(zip(coarse.tolist(), fine.tolist(), strict=True))
    return _numbered(_merge_smallest(parts, coarse, wanted).tolist())


def _bundles(links: Links, cells: Int[np.ndarray, " group"], branching: int) -> Int[np.ndarray, " group"]:
    """Number what has no links by bundles of `branching` neighbours in a cell, below 0; 0 for what has links.

    No resolution joins such groups, so left to Leiden they would use up the parents of all the others.
    """
    bundles = np.zeros(links.n_nodes, dtype=np.int64)
    for cell in np.unique(cells[links.is_alone]):
        members = np.flatnonzero(links.is_alone & (cells == cell))
        bundles[members] = -1 - np.arange(len(members)) // branching
    return bundles


def _merge_smallest(
    parts: Int[np.ndarray, " group"], cells: Int[np.ndarray, " group"], wanted: int
) -> Int[np.ndarray, " group"]:
    """Join the two smallest parts of one cell, the smallest pair first, until `wanted` parts are left."""
    sizes = np.bincount(parts).tolist()
    waiting: dict[int, list[tuple[int, int]]] = {}
    for part, cell in enumerate(cells[np.unique(parts, return_index=True)[1]].tolist()):
        heapq.heappush(waiting.setdefault(cell, []), (sizes[part], part))
    pairs = [(_pair_size(heap), cell) for cell, heap in waiting.items() if len(heap) > 1]
    heapq.heapify(pairs)
    owner = np.arange(len(sizes))
    for _ in range(len(sizes) - wanted):
        _, cell = heapq.heappop(pairs)
        heap = waiting[cell]
        (size, kept), (other_size, other) = heapq.heappop(heap), heapq.heappop(heap)
        owner[other] = kept
        heapq.heappush(heap, (size + other_size, kept))
        if len(heap) > 1:
            heapq.heappush(pairs, (_pair_size(heap), cell))
    while (owner != owner[owner]).any():
        owner = owner[owner]
    return owner[parts]


def _pair_size(heap: list[tuple[int, int]]) -> int:
    return sum(size for size, _ in heapq.nsmallest(2, heap))


def _by_order(apart: Int[np.ndarray, " group"], wanted: int) -> Int[np.ndarray, " group"]:
    """Give each group's parent: neighbours among those that stay apart from the others, at least one each."""
    sizes = np.bincount(apart, minlength=max(_APART.values()) + 1)
    shares = sizes.copy()
    while shares.sum() > wanted and (shares > 1).any():
        shares[np.argmin(np.where(shares > 1, sizes / np.maximum(shares, 1), np.inf))] -= 1
    parent = np.zeros(len(apart), dtype=np.int64)
    for one, (size, share, before) in enumerate(zip(sizes, shares, np.cumsum(shares) - shares, strict=True)):
        parent[apart == one] = before + np.arange(size) * share // max(size, 1)
    return parent


def _numbered(keys: Iterable[Hashable]) -> Int[np.ndarray, " _"]:
    """Number equal keys alike, in the order of their first member."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
