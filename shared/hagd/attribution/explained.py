"""How much of what reaches the targets of a prompt is explained, over all that is active and without keeping a graph.

The scores of a graph are sums over its rows, each weighted by the influence that reaches its node, and influence flows
down linearly. So rows are taken layer by layer, from the last, and dropped. Where more features of a layer are active
than shall have a row, some are drawn in proportion to the influence that reaches them and carry all of it between
them: every sum keeps its expectation.
"""

from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hagd.attribution.build import BUFFER_CELLS, MOST_TOGETHER, chunks
from hagd.attribution.columns import Columns
from hagd.attribution.descent import Descent
from hagd.attribution.frozen import FrozenPrompt
from hagd.attribution.reading import Readers, read_features, read_targets
from hagd.attribution.targets import Targets

_FEWEST_TOGETHER: Final = 16
_TINY: Final = 1e-10


@dataclass(frozen=True)
class Explained:
    """Shares of influence, between 0 and 1; the first two as `hagd.graphs.local_influence.GraphScores` defines them."""

    completeness: float
    replacement: float
    error_influence: Float[Tensor, " layer"]
    """By layer, the part that errors have of the influence of its features and errors; 0 where neither has any."""


@torch.no_grad()
def explain(
    frozen: FrozenPrompt, targets: Targets, most_rows: int, generator: torch.Generator, *, plain: int = 0
) -> Explained:
    """Score all that is active on a prompt.

    Args:
        frozen: the prompt.
        targets: what influence is measured on.
        most_rows: features of each layer that get a row; exact where no more are active.
        generator: draws them where more are.
        plain: how many first positions have no features (see `freeze`). What their MLPs write is nobody's error, so it
            counts nowhere, as in circuit-tracer.
    """
    quiet, columns = frozen.replay(nodes=False), Columns.of(frozen)
    weights = torch.tensor([target.weight for target in targets.named], dtype=torch.float64)
    flow = _Flow(Descent(frozen, columns), frozen, plain, float(weights.sum()))
    flow.take(read_targets(frozen, quiet, targets), weights)
    for layer in reversed(range(columns.n_layers)):
        drawn, carried = stand_ins(flow.influence[columns.of_layer(layer)], most_rows, generator)
        if len(drawn):
            flow.take(read_features(frozen, quiet, layer, drawn.to(frozen.embed.device)), carried)
    return flow.scores()


def stand_ins(
    influence: Float[Tensor, " feature"], most: int, generator: torch.Generator
) -> tuple[Int[Tensor, " drawn"], Float[Tensor, " drawn"]]:
    """Give the features that stand for all, ascending, and the influence that each carries: its own, where there are
    at most so many; else equal parts of the whole, drawn by one random offset (systematic sampling)."""
    there = (influence > 0).nonzero()[:, 0]
    if len(there) <= most:
        return there, influence[there]
    reached = influence[there].cumsum(0)
    ticks = (torch.arange(most) + torch.rand((), generator=generator, dtype=torch.float64)) * (reached[-1] / most)
    met = torch.searchsorted(reached, ticks, right=True).clamp_max(len(there) - 1)
    drawn, times = met.unique(return_counts=True)
    return there[drawn], times * (reached[-1] / most)


class _Flow:
    """Influence on its way down, and what it has met."""

    def __init__(self, descent: Descent, frozen: FrozenPrompt, plain: int, begins: float) -> None:
        self._descent, self._begins = descent, begins
        self._columns, self._embed = descent.columns, frozen.embed
        positions = torch.arange(self._columns.n_pos).repeat(self._columns.n_layers)
        self._left_out = (self._columns.error(0) + (positions < plain).nonzero()[:, 0]).to(frozen.embed.device)
        self.influence = torch.zeros(len(self._columns), dtype=torch.float64)
        self._from_errors = 0.0
        """What errors are of the input of nodes, weighted by the influence that reaches these."""

    def take(self, readers: Readers, reached: Float[Tensor, " row"]) -> None:
        """Let the influence that reaches some nodes flow on to what they read."""
        columns = self._columns
        errors = slice(columns.error(0), columns.token(0))
        most = max(_FEWEST_TOGETHER, min(MOST_TOGETHER, BUFFER_CELLS // len(columns)))
        for part, some in chunks(readers, self._descent.most_places, most):
            rows = self._embed.new_zeros(len(some), len(columns))
            self._descent.run(some.vectors, some.positions, some.site, rows)
            absolute = rows.abs_()
            absolute[:, self._left_out] = 0
            share = reached[part] / absolute.sum(1).double().cpu().clamp_min(_TINY)
            flowing = (share.to(absolute) @ absolute).double().cpu()
            self.influence += flowing
            self._from_errors += float(flowing[errors].sum())

    def scores(self) -> Explained:
        """Give the scores, once all layers are done."""
        columns = self._columns
        by_error = self.influence[columns.error(0) : columns.token(0)].view(columns.n_layers, columns.n_pos).sum(1)
        tokens, errors = self.influence[columns.token(0) :].sum(), by_error.sum()
        by_layer = torch.stack([self.influence[columns.of_layer(it)].sum() for it in range(columns.n_layers)])
        reached = self.influence.sum() + self._begins
        return Explained(
            completeness=1 - self._from_errors / float(reached),
            replacement=float(tokens / (tokens + errors)) if tokens + errors else 1.0,
            error_influence=by_error / (by_layer + by_error).clamp_min(_TINY),
        )
