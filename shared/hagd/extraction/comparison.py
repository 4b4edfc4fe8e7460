"""Two circuits against each other. Leaves are compared, not supernodes, whose names depend on the tree."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from hagd.graphs.circuit import Circuit


@dataclass(frozen=True)
class CircuitComparison:
    """What two circuits share."""

    both: tuple[str, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    jaccard: float
    """Shared leaves over all leaves; 1 for two empty circuits."""
    edge_jaccard: float
    """The same over the claimed edges, by the names of their ends."""
    by_kind: tuple[tuple[str, int, int, int], ...]
    """(kind, in both, only in the first, only in the second)"""

    def to_json(self) -> dict[str, Any]:
        return {
            "both": list(self.both),
            "only_first": list(self.only_first),
            "only_second": list(self.only_second),
            "jaccard": self.jaccard,
            "edge_jaccard": self.edge_jaccard,
            "by_kind": [
                {"kind": kind, "both": both, "only_first": first, "only_second": second}
                for kind, both, first, second in self.by_kind
            ],
        }


def compare_circuits(first: Circuit, second: Circuit) -> CircuitComparison:
    """Compare the chosen sizes of two circuits over the same universe of nodes."""
    left, right = _leaves(first), _leaves(second)
    both, only_first, only_second = sorted(left & right), sorted(left - right), sorted(right - left)
    kinds = sorted({_kind(leaf) for leaf in left | right})
    by_kind = tuple((kind, _count(both, kind), _count(only_first, kind), _count(only_second, kind)) for kind in kinds)
    return CircuitComparison(
        tuple(both),
        tuple(only_first),
        tuple(only_second),
        _jaccard(left, right),
        _jaccard(_edges(first), _edges(second)),
        by_kind,
    )


def _leaves(circuit: Circuit) -> set[str]:
    return {str(leaf) for node in circuit.nodes[: circuit.size] for leaf in node.leaves}


def _edges(circuit: Circuit) -> set[tuple[str, str]]:
    return {(edge.source, edge.target) for edge in circuit.edges[: circuit.n_edges]}


def _count(leaves: list[str], kind: str) -> int:
    return sum(_kind(leaf) == kind for leaf in leaves)


def _kind(leaf: str) -> str:
    return leaf.partition("@")[0].partition(".")[0]


def _jaccard(left: AbstractSet[object], right: AbstractSet[object]) -> float:
    union = len(left | right)
    return len(left & right) / union if union else 1.0
