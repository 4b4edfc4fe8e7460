"""Where the targets of a descent stand: in which depth, and at which positions."""

from bisect import bisect_left
from typing import Final, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hagd.attribution.columns import Columns
from hagd.attribution.frozen import FrozenPrompt

_MOST_ROWS: Final = 16


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
        blocks = [
            (pos, top, min(top + _MOST_ROWS, last))
            for pos, first, last in self.groups
            for top in range(first, last, _MOST_ROWS)
        ]
        sizes = torch.tensor([last - top for _, top, last in blocks], device=positions.device)
        self.of_blocks = torch.tensor([pos for pos, _, _ in blocks], device=positions.device)
        """Where the targets of each block stand: at one position, and few of them."""
        self.block = torch.arange(len(sizes), device=positions.device).repeat_interleave(sizes)
        """By target: its block."""
        self.within = self.numbers - (sizes.cumsum(0) - sizes)[self.block]
        """By target: which one of its block it is."""
        self._places, self._places_of_blocks = places, [pos for pos, _, _ in blocks]

    def by_block(self, points: Float[Tensor, "row d_model"]) -> Float[Tensor, "block within d_model"]:
        """Give what belongs to single targets by block, filled up with zeros."""
        packed = points.new_zeros(len(self.of_blocks), _MOST_ROWS, points.shape[1])
        packed[self.block, self.within] = points
        return packed

    def between(self, first: int, last: int) -> tuple[slice, slice]:
        """Give the blocks, and the targets, from a position up to before another."""
        of_blocks, of_rows = self._places_of_blocks, self._places
        return (
            slice(bisect_left(of_blocks, first), bisect_left(of_blocks, last)),
            slice(bisect_left(of_rows, first), bisect_left(of_rows, last)),
        )
