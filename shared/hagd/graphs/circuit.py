"""A circuit: a nested family of node sets at mixed resolution, with the edges between them."""

from collections.abc import Mapping
from dataclasses import dataclass

from hagd.graphs.nodes import Node


@dataclass(frozen=True)
class CircuitNode:
    """One node of the frontier: a leaf, a supernode (several features of one block), or a whole MLP block."""

    id: str
    kind: str
    """A `NodeKind`, or `supernode`."""
    layer: int
    role: str
    leaves: tuple[Node, ...]
    """What the node keeps live. A whole block is one `mlp` leaf here; `n_leaves` counts what it hides."""
    n_leaves: int
    unexplained: bool
    """True for whole MLP blocks."""
    score: float
    """Signed attribution to the metric on D_discover."""


@dataclass(frozen=True)
class CircuitEdge:
    source: str
    target: str
    weight: float


@dataclass(frozen=True)
class Circuit:
    """Nodes in order of rank: the first k nodes are the circuit of size k, for every k (anytime, nested)."""

    nodes: tuple[CircuitNode, ...]
    size: int
    """The number of nodes chosen on D_select; the circuit proper is `nodes[:size]`."""
    edges: tuple[CircuitEdge, ...]
    """Edges among the first `size` nodes and the logit, strongest first."""
    n_edges: int
    """How many of `edges` the circuit claims (chosen on D_select)."""
    refined: Mapping[int, tuple[str, ...]]
    """Layer -> roles whose MLP is resolved into features."""
    evaluations: int
    """Causal evaluations spent: one prompt through one forward; a backward counts 2."""
    trace: tuple[Mapping[str, float], ...]
    """Search steps: nodes, KL in nats, evaluations so far."""
