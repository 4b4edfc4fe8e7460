"""How many bits it takes to write a circuit down, given the model, the task and the dictionaries.

    bits = log2 C(layer x role, refined places) + log2(layer x role + 1)        which blocks are resolved
         + sum over kind x layer of log2 C(pool, k) + log2(pool + 1)            which leaves, and how many
         + sum over places of feature leaves x log2(supernodes + 1)             which leaf is in which supernode
         + log2 C(admissible pairs, edges) + log2(admissible pairs + 1)         which edges, and how many

A whole block is one choice: its leaves are not named, which is why `leaves` is reported beside the bits.
"""

from collections import Counter
from math import lgamma, log, log2

from hagd_verification.domain.frontier import Frontier

FORMULA = (
    "log2 C(places, refined) + sum over kind x layer of log2 C(pool, chosen) + sum over places of feature leaves x "
    "log2(supernodes + 1) + log2 C(admissible pairs, edges), plus log2(pool + 1) for every count"
)


def log2_binomial(n: int, k: int) -> float:
    """Give log2 of the number of ways to choose k of n."""
    return (lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)) / log(2)


def subset_bits(n: int, k: int) -> float:
    """Give the bits of a subset of unknown size: its size, then which one."""
    return log2(n + 1) + log2_binomial(n, k)


def description_length(frontier: Frontier, n_edges: int, admissible_pairs: int) -> float:
    """Give the bits of the circuit's nodes and edges."""
    universe = frontier.universe
    bits = subset_bits(universe.refined.numel(), int(universe.refined.sum()))
    chosen = frontier.vector() != 0
    for kind in range(6):
        for layer in range(-1, universe.n_layers):
            pool = universe.exists & (universe.kinds == kind) & (universe.layers == layer)
            if (size := int(pool.sum())) > 0:
                bits += subset_bits(size, int((chosen & pool).sum()))
    return bits + _grouping_bits(frontier) + subset_bits(admissible_pairs, min(n_edges, admissible_pairs))


def _grouping_bits(frontier: Frontier) -> float:
    """Give the bits that say, where there are supernodes, which one each leaf belongs to, or none."""
    supernodes: Counter[tuple[int, str]] = Counter()
    leaves: Counter[tuple[int, str]] = Counter()
    for node in frontier.chosen:
        supernodes[node.layer, node.role] += node.kind == "supernode"
        leaves[node.layer, node.role] += sum(leaf.kind == "feature" for leaf in node.leaves)
    return sum(leaves[place] * log2(count + 1) for place, count in supernodes.items())
