"""Write a search's result down as a `Circuit`: ranked frontier nodes at mixed resolution."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from hagd.graphs.circuit import CircuitNode
from hagd.interventions.activations import Subject
from hagd.interventions.universe import Universe


def frontier(
    subject: Subject,
    universe: Universe,
    ranking: Sequence[int],
    replaced: Mapping[int, Sequence[int]],
    scores: Float[np.ndarray, " node"],
) -> list[CircuitNode]:
    """Give the ranked nodes; a refined block's features stand where the block stood, as one supernode.

    Args:
        subject: with the dictionaries that count a whole block's leaves.
        universe: names the entries.
        ranking: entries, most needed first.
        replaced: block entry -> entries of the features that replace it.
        scores: signed attribution of every entry to the metric.
    """
    nodes: list[CircuitNode] = []
    for entry in ranking:
        parts = replaced.get(entry)
        if parts is None:
            nodes.append(_single(subject, universe, entry, float(scores[entry])))
        elif len(parts) == 1:
            nodes.append(_single(subject, universe, parts[0], float(scores[parts[0]])))
        else:
            nodes.append(_supernode(universe, entry, parts, float(scores[list(parts)].sum())))
    return nodes


def _single(subject: Subject, universe: Universe, entry: int, score: float) -> CircuitNode:
    node = universe.node(entry)
    n_leaves = hidden_leaves(subject, node.layer) if node.kind == "mlp" else 1
    return CircuitNode(str(node), node.kind, node.layer, node.role, (node,), n_leaves, node.kind == "mlp", score)


def hidden_leaves(subject: Subject, layer: int) -> int:
    """Count what a whole block keeps live: every feature, the error, and the skip path if there is one."""
    dictionary = subject.dictionaries.get(layer)
    if dictionary is None:
        return subject.model.config.d_mlp + 1
    return dictionary.n_features + 1 + (dictionary.w_skip is not None)


def _supernode(universe: Universe, block: int, parts: Sequence[int], score: float) -> CircuitNode:
    node = universe.node(block)
    leaves = tuple(sorted(universe.node(part) for part in parts))
    name = f"supernode.{node.layer}@{node.role}"
    return CircuitNode(name, "supernode", node.layer, node.role, leaves, len(leaves), False, score)
