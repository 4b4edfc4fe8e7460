"""Where what rows read meets what is written: each product is an edge, put into its column."""

import math
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from hagd.attribution.bands import Band, Slots
from hagd.attribution.blocks import Block
from hagd.attribution.columns import Columns
from hagd.attribution.coordinates import Coordinates, State
from hagd.attribution.own_positions import OwnPositions
from hagd.attribution.standing import Standing
from hagd.models.precision import multiply

_ALONE: Final = {torch.float32: 1 << 21, torch.bfloat16: 1 << 20}
"""Multiplications at a position from which it is met by a product of its own: what batched ones lack in speed is then
more than what a call costs."""


class Met(NamedTuple):
    """The products of one band."""

    band: Band
    top: int
    """The first row that sees any of it."""
    products: Float[Tensor, "pos room row"]


def meet_slots(
    read: Float[Tensor, "pos row coordinate"],
    rows: Standing,
    slots: Slots,
    packed: Float[Tensor, "slot coordinate"],
) -> Iterator[Met]:
    """Take the products of rows with what `Slots.pack` gave, band by band, up to the last of their positions."""
    for band in slots.before(rows.n_pos):
        last, top = min(band.last, rows.n_pos), rows.seeing[band.first]
        here = slice(band.start, band.start + (last - band.first) * band.room)
        written = packed[here].view(last - band.first, band.room, -1)
        if band.room * (read.shape[1] - top) * read.shape[2] < _ALONE.get(read.dtype, math.inf):
            yield Met(band, top, torch.bmm(written, read[band.first : last, top:].transpose(1, 2)))
            continue
        for number, pos in enumerate(range(band.first, last)):
            alone = Band(pos, pos + 1, band.room, band.start + number * band.room)
            yield Met(alone, top, multiply(read[pos, top:], written[number].contiguous().T).T[None])


class Meeting:
    """The edges from all that MLPs write."""

    def __init__(self, columns: Columns, blocks: Sequence[Block], coordinates: Coordinates) -> None:
        """Keep where edges go.

        Args:
            columns: the sources.
            blocks: those of the prompt.
            coordinates: in which both sides are given.
        """
        self._columns, self._blocks, self._coordinates = columns, blocks, coordinates
        self._own = OwnPositions(columns, blocks)
        # Features that write to more than one layer have edges that are sums.
        self._sums = any(len(block.writers) > 1 for block in blocks)

    def meet(self, state: State, rows: Standing, layer: int, out: Float[Tensor, "row column"]) -> None:
        """Write the edges from everything that the MLP of a layer writes to the coordinates of a state."""
        read = self._coordinates.read(state)
        for source, packed in self._coordinates.view(state.layers, layer).writers.items():
            for met in meet_slots(read, rows, self._blocks[layer].slots[source], packed):
                self._put(met, source, layer, out)

    def meet_points(
        self, points: Float[Tensor, "row d_model"], rows: Standing, layers: range, out: Float[Tensor, "row column"]
    ) -> None:
        """Add the edges from what the MLPs of some layers write at single positions, one per row."""
        # One layer at a time where columns are met again by others: sums must not depend on the order of threads.
        parts = [range(layer, layer + 1) for layer in layers] if self._sums else [layers]
        for part in parts:
            self._own.meet(points, rows, part, out)

    def _put(self, met: Met, source: int, layer: int, out: Float[Tensor, "row column"]) -> None:
        """Write the edges from what one source layer writes to a layer, at the positions of one band."""
        band, top, products = met
        places, bounds = self._blocks[layer].slots[source].places, self._columns.bounds[source]
        end = band.first + len(products)
        first, last, start = bounds[band.first], bounds[end], self._columns.error(layer)
        if len(products) == 1:
            # Features stand one after the other, and the error behind them.
            features, errors = products[0, : last - first], products[0, last - first : last - first + 1]
        else:
            flat, n_features = products.flatten(0, 1), bounds[-1] - bounds[0]
            features = flat[places[first - bounds[0] : last - bounds[0]] - band.start]
            # Of another source layer, none.
            errors = flat[places[n_features + band.first : n_features + end] - band.start]
        if self._sums:
            out[top:, first:last] += features.T
        else:
            out[top:, first:last] = features.T
        if source == layer:
            out[top:, start + band.first : start + end] = errors.T
