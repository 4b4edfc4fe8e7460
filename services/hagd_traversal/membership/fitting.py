"""Fitting the network: cross-entropy over all levels of all graphs, then one temperature.

Each step takes a few graphs at one level each, as one disconnected graph, and weighs graphs equally, not nodes; so a
large graph does not drown the small ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hagd_traversal.membership.examples import Example
from hagd_traversal.membership.features import LevelGraph
from hagd_traversal.membership.network import MembershipNetwork

OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class FittingConfig:
    """How the network is trained."""

    steps: int = 600
    """Optimiser steps."""
    together: int = 4
    """Graphs per step."""
    learning_rate: float = 4e-3
    weight_decay: float = 1e-3
    planted_share: float = 0.3
    """Share of steps' graphs that are synthetic, where there are others."""
    blur: float = 0.02
    """Standard deviation of noise added to node features, against overfitting to exact ranks."""


@dataclass(frozen=True)
class _Item:
    graph: LevelGraph
    labels: Float[Tensor, " cluster"]
    weight: Float[Tensor, " cluster"]
    """1 / number of judged groups, 0 where not judged."""


def fit(
    examples: Sequence[Example], seed: int, config: FittingConfig, on_step: OnStep | None = None
) -> MembershipNetwork:
    """Train a network. The same examples, seed and config give the same weights on one thread."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = MembershipNetwork()
    generator = torch.Generator().manual_seed(seed)
    planted = [_items(example) for example in examples if example.task == "planted"]
    others = [_items(example) for example in examples if example.task != "planted"]
    optimiser = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.learning_rate, total_steps=config.steps)
    for step in range(config.steps):
        batch = [_draw(planted, others, config.planted_share, generator) for _ in range(config.together)]
        graph, labels, weight = _join(batch)
        noise = config.blur * torch.randn(graph.nodes.shape, generator=generator)
        logits = network(LevelGraph(graph.nodes + noise, graph.edges, graph.edge_features))
        loss = (torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none") * weight).sum()
        optimiser.zero_grad()
        (loss / len(batch)).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if on_step is not None:
            on_step(step + 1, config.steps)
    return network.eval()


def calibrate(network: MembershipNetwork, examples: Sequence[Example]) -> float:
    """Set the temperature that minimises cross-entropy on examples the network has not seen; give it."""
    items = [item for example in examples for item in _items(example)]
    graph, labels, weight = _join(items)
    network.temperature.data.fill_(1.0)
    with torch.no_grad():
        logits = network(graph)
    grid = torch.logspace(-0.7, 0.9, 81)
    losses = torch.stack(
        [
            (torch.nn.functional.binary_cross_entropy_with_logits(logits / t, labels, reduction="none") * weight).sum()
            for t in grid
        ]
    )
    best = float(grid[losses.argmin()])
    network.temperature.data.fill_(best)
    return best


def _items(example: Example) -> list[_Item]:
    items: list[_Item] = []
    for graph, labels, judged in zip(example.levels, example.labels, example.judged, strict=True):
        weight = torch.zeros(len(labels))
        weight[judged] = 1.0 / max(len(judged), 1)
        items.append(_Item(graph, labels, weight))
    return items


def _draw(
    planted: list[list[_Item]], others: list[list[_Item]], planted_share: float, generator: torch.Generator
) -> _Item:
    """Take one level of one graph; half of the time the finest, which matters most and is hardest."""
    synthetic = not others or (bool(planted) and float(torch.rand((), generator=generator)) < planted_share)
    pool = planted if synthetic else others
    levels = pool[int(torch.randint(len(pool), (), generator=generator))]
    finest = float(torch.rand((), generator=generator)) < 0.5
    return levels[0 if finest else int(torch.randint(len(levels), (), generator=generator))]


def _join(items: Sequence[_Item]) -> tuple[LevelGraph, Float[Tensor, " cluster"], Float[Tensor, " cluster"]]:
    """Put graphs side by side."""
    sizes = torch.tensor([0, *(len(item.labels) for item in items)]).cumsum(0)
    graph = LevelGraph(
        torch.cat([item.graph.nodes for item in items]),
        torch.cat([item.graph.edges + start for item, start in zip(items, sizes[:-1], strict=True)], dim=1),
        torch.cat([item.graph.edge_features for item in items]),
    )
    return graph, torch.cat([item.labels for item in items]), torch.cat([item.weight for item in items])
