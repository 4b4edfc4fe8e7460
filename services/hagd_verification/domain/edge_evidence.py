"""Are the edges true? The circuit with only its own edges live, against random edge sets of that size."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from hagd.errors import InvalidInputError
from hagd.graphs.nodes import Node
from hagd.interventions.edges import EdgeCircuit, admissible, evaluate_edges
from hagd.interventions.evaluation import HEADLINE, Ablation
from hagd_verification.domain.frontier import Frontier
from hagd_verification.domain.panel import Panel, as_array
from hagd_verification.domain.statistics import count_p

_HEADLINE: tuple[Ablation, ...] = tuple(setting.ablation for setting in HEADLINE)


@dataclass(frozen=True)
class EdgePool:
    """The circuit's nodes, and which of them an edge can join."""

    nodes: tuple[tuple[Node, ...], ...]
    """The leaves of every node, errors left out: they are never live."""
    pairs: Bool[Tensor, "reader node"]
    """The pairs of nodes that an edge can join; the last reader is the logit."""

    @staticmethod
    def of(frontier: Frontier, panel: Panel) -> "EdgePool":
        """Collect the pairs of the circuit's nodes in the layouts of a panel; a node of errors alone has none."""
        live = [tuple(leaf for leaf in node.leaves if leaf.kind != "error") for node in frontier.chosen]
        nodes = tuple(kept or node.leaves for kept, node in zip(live, frontier.chosen, strict=True))
        prepared = panel.prepared
        layouts = [prompts.batch.layout for prompts in prepared.batches]
        pairs = admissible(nodes, layouts, prepared.subject.model.config)
        heard = torch.tensor([bool(kept) for kept in live])
        pairs[:, ~heard] = False
        pairs[:-1][~heard] = False
        return EdgePool(nodes, pairs)

    def circuit(self, edges: Bool[Tensor, "reader node"]) -> EdgeCircuit:
        """Give the circuit that hears only through some of the pairs."""
        return EdgeCircuit(self.nodes, edges & self.pairs)

    def random(self, count: int, generator: np.random.Generator) -> Bool[Tensor, "reader node"]:
        """Draw as many admissible pairs, uniformly."""
        flat = self.pairs.flatten().nonzero().flatten().numpy()
        chosen = generator.choice(flat, min(count, len(flat)), replace=False)
        edges = torch.zeros(self.pairs.numel(), dtype=torch.bool)
        edges[torch.from_numpy(chosen)] = True
        return edges.reshape(self.pairs.shape)


def claimed_edges(frontier: Frontier, pool: EdgePool) -> Bool[Tensor, "reader node"]:
    """Read the edges that the circuit claims.

    Raises:
        InvalidInputError: an edge names a node outside the circuit.
    """
    number = {node.id: i for i, node in enumerate(frontier.chosen)}
    edges = torch.zeros_like(pool.pairs)
    for edge in frontier.circuit.edges[: frontier.circuit.n_edges]:
        reader = len(number) if edge.target.startswith("logit@") else number.get(edge.target)
        source = number.get(edge.source)
        if reader is None or source is None:
            raise InvalidInputError(
                f"the edge {edge.source} -> {edge.target} leaves the circuit", "run the search again"
            )
        edges[reader, source] = True
    return edges


def measure_edges(
    panel: Panel,
    few: Panel,
    frontier: Frontier,
    pool: EdgePool,
    draws: int,
    seed: int,
    on_part: Callable[[float], None],
) -> dict[str, Any]:
    """Give the `edges_only` of the contract: the smaller preservation of the headline's donors, and the random mean.

    Random edge sets are scored on the prompts of `few`, and the claimed edges once more there, for the p-value.
    """
    edges = claimed_edges(frontier, pool)
    count = int(edges.sum())
    by_setting = {ablation: _preserved(panel, pool.circuit(edges), (ablation,)) for ablation in _HEADLINE}
    observed = _preserved(few, pool.circuit(edges), _HEADLINE)
    random: list[float] = []
    for draw in range(draws):
        generator = np.random.default_rng([seed, draw])
        random.append(_preserved(few, pool.circuit(pool.random(count, generator)), _HEADLINE))
        on_part((draw + 1) / draws)
    return {
        "behavioural_preservation": min(by_setting.values()),
        "by_setting": by_setting,
        "random_mean": float(np.mean(random)) if random else None,
        "p": count_p(sum(value >= observed for value in random), len(random)),
        "edges": count,
        "admissible": int(pool.pairs.sum()),
        "draws": draws,
        "n": len(panel),
        "n_random": len(few),
    }


def _preserved(panel: Panel, circuit: EdgeCircuit, ablations: tuple[Ablation, ...]) -> float:
    """Give the smallest preservation; nothing more is run once it is 0."""
    smallest = 1.0
    for ablation in ablations:
        if smallest > 0:
            donors = len(panel.prepared.batches[0].draws) if ablation == "unpaired" else 1
            panel.bill.spent += donors * len(panel)
            outcome = evaluate_edges(panel.prepared, circuit, ablation)
            smallest = min(smallest, float(as_array(outcome.agreement).mean()))
    return smallest
