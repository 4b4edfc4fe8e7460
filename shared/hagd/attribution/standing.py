"""Where the targets of a descent stand: in which depth, and at which positions."""

from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from hagd.attribution.columns import Columns
from hagd.attribution.frozen import FrozenPrompt


class Site(NamedTuple):
    """A place in depth where the residual stream is read: what enters block `layer`, or what its MLP reads.

    The final norm reads what would enter block `n_layers`.
    """

    layer: int
    between: bool
    """Behind the block's attention, before its MLP."""


def mlp_site(frozen: FrozenPrompt, layer: int) -> Site:
    """Give where the MLP of a layer reads: with parallel residuals, what enters the block."""
    return Site(layer, not frozen.model.config.parallel_residual)


class Standing:
    """Where the targets of one descent stand: ascending positions, and which rows see which of them."""

    def __init__(self, positions: Int[Tensor, " row"], columns: Columns) -> None:
        self.positions = positions
        self.numbers = torch.arange(len(positions), device=positions.device)
        places: list[int] = positions.tolist()
        self.n_pos = places[-1] + 1
        if places != sorted(places) or places[0] < 0 or self.n_pos > columns.n_pos:
            raise ValueError("positions must be ascending, and of the prompt")
        counts = torch.bincount(positions, minlength=self.n_pos).cumsum(0).tolist()
        self.seeing: list[int] = [0, *counts[:-1]]
        """By position: the first target that stands there or behind it."""
        self.groups: list[tuple[int, int, int]] = [
            (pos, first, last)
            for pos, (first, last) in enumerate(zip(self.seeing, counts, strict=True))
            if first < last
        ]
        """(position, first target, end) of every position where targets stand."""
