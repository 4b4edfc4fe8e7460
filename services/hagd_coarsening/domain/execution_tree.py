"""The execution tree: groups of groups of nodes whose quotient is a graph without cycles at every level.

A level of n groups has exactly ceil(n / b) parents. Nodes are first grouped within one block, that is one (layer,
kind, role); a block column, one (layer, kind), opens its blocks to more and more adjacent roles as it runs out of
groups: 1, 2, 4, ... roles, then all. Nodes of one column never feed each other, so any such grouping is acyclic. When
there are fewer groups than columns, neighbours in the network's order are merged: intervals of an order that
all edges follow stay acyclic. Tokens, errors (which nothing flows into) and the logit keep to themselves.
"""

import heapq
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from hagd.graphs.attribution_graph import AttributionGraph
from hagd.graphs.nodes import NODE_KINDS, NodeKind
from hagd_coarsening.domain.balanced import split_balanced
from hagd_coarsening.domain.node_table import stage_of

_SLACK = 1.5
"""A block's groups may be this much larger than the branching before its column opens to more roles."""
_APART: dict[NodeKind, int] = {"token": 0, "error": 1, "logit": 3}
_REST = 2
"""Kinds that are never merged with others, in the order of their groups; what nothing flows into comes first."""


@dataclass
class _Column:
    """The groups of one (layer, kind) at the present level."""

    groups: Int[np.ndarray, " cluster"]
    roles: Int[np.ndarray, " cluster"]
    """Lowest role of each group."""
    rung: int
    """Blocks span 2^rung adjacent roles."""

    def blocks(self) -> list[Int[np.ndarray, " _"]]:
        """Give the groups of each block, by role."""
        keys = self.roles >> self.rung
        return [self.groups[keys == key] for key in np.unique(keys)]

    def open(self, branching: int) -> None:
        """Widen the blocks until this column can keep to its share of groups."""
        share = -(-len(self.groups) // branching)
        while len(blocks := self.blocks()) > 1:
            if sum(math.ceil(len(block) / (_SLACK * branching)) for block in blocks) <= share:
                break
            self.rung += 1

    def lifted(self, parent: Int[np.ndarray, " cluster"]) -> "_Column":
        """Give the column of the parents."""
        groups, first = np.unique(parent[self.groups], return_index=True)
        return _Column(groups, self.roles[first], self.rung)


def build_tree(
    graph: AttributionGraph, points: Float[np.ndarray, "node axis"], branching: int
) -> list[Int[np.ndarray, " _"]]:
    """Give the parents of every level, up to at most 2 * branching groups or as few as the kinds allow.

    Groups are numbered so that all edges run from a smaller to a larger number, at every level.

    Args:
        graph: nodes sorted by stage, as every attribution graph is.
        points: where each node lies; nodes of one block that lie close together are grouped first.
        branching: mean number of children, at least 2.
    """
    columns = _columns(graph)
    apart = np.array([_APART.get(node.kind, _REST) for node in graph.nodes])
    sizes = np.ones(graph.n_nodes)
    parents: list[Int[np.ndarray, " _"]] = []
    while len(sizes) > 2 * branching:
        wanted = -(-len(sizes) // branching)
        _open_columns(columns, wanted, branching)
        blocks = [block for column in columns for block in column.blocks()]
        if columns and len(blocks) <= wanted:
            parent = _inside_blocks(blocks, points, wanted, branching)
            columns = [column.lifted(parent) for column in columns]
        else:
            parent, columns = _intervals(apart, wanted), []
        n_groups = int(parent.max()) + 1
        if n_groups == len(sizes):
            break
        parents.append(parent)
        total = np.bincount(parent, weights=sizes)
        members = sparse.csr_array((sizes, (parent, np.arange(len(parent)))), shape=(n_groups, len(parent)))
        points, sizes = members @ points / total[:, None], total
        apart = apart[np.unique(parent, return_index=True)[1]]
    return parents


def _columns(graph: AttributionGraph) -> list[_Column]:
    """Sort nodes into columns, in the network's order."""
    number = {role: i for i, role in enumerate(graph.roles)}
    found: dict[tuple[int, int], list[int]] = {}
    for place, node in enumerate(graph.nodes):
        stage = stage_of(node.kind, node.layer, graph.n_layers)
        found.setdefault((stage, NODE_KINDS.index(node.kind)), []).append(place)
    roles = np.array([number[node.role] for node in graph.nodes])
    return [_Column(np.array(places), roles[places], 0) for _, places in sorted(found.items())]


def _open_columns(columns: list[_Column], wanted: int, branching: int) -> None:
    """Widen blocks until there are at most `wanted` of them or every column is one block."""
    for column in columns:
        column.open(branching)
    counts = [len(column.blocks()) for column in columns]
    while sum(counts) > wanted and max(counts) > 1:
        widest = int(np.argmax(counts))
        columns[widest].rung += 1
        counts[widest] = len(columns[widest].blocks())


def _inside_blocks(
    blocks: list[Int[np.ndarray, " _"]], points: Float[np.ndarray, "cluster axis"], wanted: int, branching: int
) -> Int[np.ndarray, " cluster"]:
    """Group the members of every block; `wanted` groups in all."""
    parent = np.zeros(len(points), dtype=np.int64)
    done = 0
    for block, n_groups in zip(blocks, allot([len(block) for block in blocks], wanted, branching), strict=True):
        parent[block] = done + split_balanced(points[block], n_groups)
        done += n_groups
    return parent


def allot(sizes: list[int], wanted: int, branching: int) -> list[int]:
    """Divide `wanted` groups among blocks of given sizes: at least one each, group sizes as equal as can be.

    `wanted` lies between the number of blocks and the sum of their sizes.
    """
    shares = [max(1, size // branching) for size in sizes]
    missing = wanted - sum(shares)
    if missing > 0:
        heap = [(-size / share, i) for i, (size, share) in enumerate(zip(sizes, shares, strict=True)) if size > share]
    else:
        heap = [(size / (share - 1), i) for i, (size, share) in enumerate(zip(sizes, shares, strict=True)) if share > 1]
    heapq.heapify(heap)
    for _ in range(abs(missing)):
        _, i = heapq.heappop(heap)
        shares[i] += 1 if missing > 0 else -1
        if missing > 0 and shares[i] < sizes[i]:
            heapq.heappush(heap, (-sizes[i] / shares[i], i))
        if missing < 0 and shares[i] > 1:
            heapq.heappush(heap, (sizes[i] / (shares[i] - 1), i))
    return shares


def _intervals(apart: Int[np.ndarray, " cluster"], wanted: int) -> Int[np.ndarray, " cluster"]:
    """Merge neighbours in the network's order, kinds that stay apart among themselves; at least one group each."""
    classes = np.unique(apart)
    sizes = [int((apart == one).sum()) for one in classes]
    shares = allot(sizes, max(wanted, len(classes)), max(2, -(-len(apart) // wanted)))
    parent = np.zeros(len(apart), dtype=np.int64)
    done = 0
    for one, size, share in zip(classes, sizes, shares, strict=True):
        parent[apart == one] = done + np.arange(size) * share // size
        done += share
    return parent
