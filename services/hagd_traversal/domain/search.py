"""Coarse-to-fine removal of groups by causal tests (the traversal of the hierarchy).

State: a circuit, and its KL on the discovery prompts. A sweep walks the layers from the last to the first;
in a layer, groups of the execution tree are ordered by predicted cost and offered for removal together, cheapest
first; a batch that costs more than its price is halved, down to the group's children and to single nodes, and
what fails alone is protected for some sweeps. The price per node rises from sweep to sweep and the groups get
finer, which traces a nested family of circuits from large to small. Every sweep tests on newly drawn prompts and
donors. Walking downwards keeps every test's prefix valid: removing nodes of layer l changes nothing below l, so a
test at l starts from cached residuals.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hagd.interventions.engine import CircuitRun
from hagd_traversal.domain.evidence import Evidence

Groups = Int[Tensor, " node"]


@dataclass(frozen=True)
class SearchConfig:
    """Limits and pace of the search."""

    budget: int
    """Causal evaluations that the search may spend."""
    floor: int
    """Stop when this few nodes are left."""
    first_price: float = 2e-4
    """KL in nats that one removed node may cost in the first sweep."""
    price_growth: float = 1.6
    """Factor on the price from sweep to sweep."""
    stalled_growth: float = 4.0
    """Factor on the price after a sweep that removed less than a twentieth of the nodes."""
    patience: int = 3
    """Single nodes that may fail in a layer before its dearer ones are left alone for the sweep."""
    most_divergence: float = 3.0
    """Stop when the circuit's KL passes this many nats: nothing is left to keep."""
    protected_sweeps: int = 2
    """Sweeps for which a node that failed alone is not offered again."""
    offered_share: float = 0.5
    """Share of a layer's nodes, cheapest first, that one sweep offers."""


@dataclass
class SearchState:
    """What the search knows. `removed` lists nodes in order of removal: its reverse ranks them."""

    circuit: Float[Tensor, " node"]
    kl_nats: float
    removed: list[int] = field(default_factory=list[int])
    protected: dict[int, int] = field(default_factory=dict[int, int])
    trace: list[dict[str, float]] = field(default_factory=list[dict[str, float]])

    @property
    def size(self) -> int:
        return int((self.circuit != 0).sum())


def starting_circuit(order: Sequence[int], size: int, n_nodes: int) -> SearchState:
    """Start from the leading nodes of an order; the others count as removed, the last of them first."""
    circuit = torch.zeros(n_nodes)
    circuit[list(order[:size])] = 1.0
    return SearchState(circuit, 0.0, removed=list(order[size:])[::-1])


def remove_groups(
    evidence: Evidence,
    state: SearchState,
    cost: Float[Tensor, " node"],
    levels: Sequence[Groups],
    config: SearchConfig,
) -> None:
    """Sweep until the floor, the budget or the largest KL is reached.

    Args:
        evidence: the discovery prompts, drawn anew for every sweep.
        state: where to start; updated in place.
        cost: predicted cost of removing each node; orders what is offered.
        levels: group of every node per level of the execution tree, finest (single nodes) first.
        config: limits and pace.
    """
    price, sweep = config.first_price, 0
    while state.size > config.floor and evidence.spent < config.budget and state.kl_nats < config.most_divergence:
        level, before = max(0, len(levels) - 1 - sweep), state.size
        evidence.redraw()
        Sweep(evidence, state, cost, levels[: level + 1], price, config, sweep).run()
        state.trace.append({"nodes": state.size, "kl_nats": state.kl_nats, "evaluations": evidence.spent})
        price *= config.price_growth if state.size <= 0.95 * before else config.stalled_growth
        sweep += 1


@dataclass
class Sweep:
    """One pass over the layers, last to first, at one price."""

    evidence: Evidence
    state: SearchState
    cost: Float[Tensor, " node"]
    levels: Sequence[Groups]
    price: float
    config: SearchConfig
    number: int
    bases: list[CircuitRun] = field(default_factory=list[CircuitRun])
    failures: int = 0

    def run(self) -> None:
        """Offer every layer's cheapest groups."""
        layers = self.evidence.universe.layers
        self.bases = self.evidence.runs(self.state.circuit)
        self.state.kl_nats = self.evidence.divergence_of(self.bases)
        for layer in range(self.evidence.universe.n_layers - 1, -2, -1):
            candidates = self._candidates(layers == layer)
            self.failures = 0
            if candidates:
                self._offer(candidates, layer, len(self.levels) - 1)

    def _candidates(self, here: Bool[Tensor, " node"]) -> list[int]:
        """List a layer's nodes that may be offered, cheapest first."""
        live: list[int] = ((self.state.circuit != 0) & here).nonzero().flatten().tolist()
        free = [i for i in live if self.state.protected.get(i, -1) < self.number]
        free.sort(key=lambda i: (float(self.cost[i]), i))
        return free[: max(1, round(len(live) * self.config.offered_share))]

    def _offer(self, nodes: list[int], layer: int, level: int) -> None:
        """Try to remove nodes at once; on failure go on with halves, then with finer groups."""
        room = self.state.size - self.config.floor
        if room <= 0 or self.evidence.spent >= self.config.budget or self.failures >= self.config.patience:
            return
        nodes = nodes[:room]
        if self._remove(nodes, layer):
            return
        if len(nodes) == 1:
            self.state.protected[nodes[0]] = self.number + self.config.protected_sweeps
            self.failures += 1
            return
        first, second, finer = self._halves(nodes, level)
        self._offer(first, layer, finer)
        self._offer(second, layer, finer)

    def _halves(self, nodes: list[int], level: int) -> tuple[list[int], list[int], int]:
        """Split along the tree: whole groups, ordered by their mean cost; one group alone into its children."""
        while level > 0:
            groups: dict[int, list[int]] = {}
            for node in nodes:
                groups.setdefault(int(self.levels[level][node]), []).append(node)
            if len(groups) > 1:
                ordered = sorted(
                    groups.values(), key=lambda group: sum(float(self.cost[i]) for i in group) / len(group)
                )
                first: list[int] = []
                while ordered and 2 * len(first) < len(nodes):
                    first += ordered.pop(0)
                second = [node for group in ordered for node in group]
                if second:
                    return first, second, level
            level -= 1
        middle = len(nodes) // 2
        return nodes[:middle], nodes[middle:], 0

    def _remove(self, nodes: list[int], layer: int) -> bool:
        """Accept the removal if its KL stays within the price."""
        trial = self.state.circuit.clone()
        trial[nodes] = 0.0
        runs = self.evidence.runs(trial, max(layer, 0), self.bases if layer > 0 else None)
        kl_nats = self.evidence.divergence_of(runs)
        if kl_nats - self.state.kl_nats > self.price * len(nodes):
            return False
        self.state.circuit, self.state.kl_nats, self.bases = trial, kl_nats, runs
        self.state.removed += nodes
        return True
