"""Edges from what is written at the very position where a target reads.

What a target reads there stays the same vector on the whole way down, beside what heads carry. So it meets all layers
at once: by one product of some targets of a position with everything that is written at it.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hagd.attribution.bands import Band, Slots, bands_of
from hagd.attribution.blocks import Block
from hagd.attribution.columns import Columns
from hagd.attribution.standing import Standing

MOST_FILLED: Final = 2.0
"""How many times its content a band may be here: products of few targets cost less than another band,"""
ROOM_TO_SPARE: Final = 16
"""and so does so much room at each position."""
_MOST_CELLS: Final = 1 << 22
"""Of what is written, taken into one product."""


class Own(NamedTuple):
    """What the targets that stand in one band read of it."""

    rows: slice
    positions: Int[Tensor, " row"]
    """Of each, counted from the first of the band."""
    products: Float[Tensor, "row room"]


def meet_own(
    points: Float[Tensor, "block within d_model"],
    rows: Standing,
    band: Band,
    written: Float[Tensor, "pos room d_model"],
) -> Own | None:
    """Take the products of what targets read at their own positions, by `Standing.by_block`, with what is written in
    one band; None where nobody stands there."""
    blocks, here = rows.between(band.first, band.last)
    if here.start == here.stop:
        return None
    # What is written is there once for every block of a product.
    together = max(1, _MOST_CELLS // max(1, written[0].numel()))
    parts = [slice(it, min(it + together, blocks.stop)) for it in range(blocks.start, blocks.stop, together)]
    found = [torch.bmm(points[part], written[rows.of_blocks[part] - band.first].transpose(1, 2)) for part in parts]
    of_rows = torch.cat(found)[rows.block[here] - blocks.start, rows.within[here]]
    return Own(here, rows.positions[here] - band.first, of_rows)


class OwnPositions:
    """Everything that MLPs write, by position, and within one by layer."""

    def __init__(self, columns: Columns, blocks: Sequence[Block]) -> None:
        """Lay side by side what all blocks write, and note the column of each."""
        parts = [(layer, source, it) for layer, block in enumerate(blocks) for source, it in block.writers.items()]
        positions = torch.cat([blocks[layer].slots[source].positions for layer, source, _ in parts])
        layers = torch.cat([torch.full_like(it[:, 0], layer, dtype=torch.int64) for layer, _, it in parts])
        places = torch.cat([_columns_of(columns, layer, source, positions.device) for layer, source, _ in parts])
        order = positions.argsort(stable=True)
        counts = positions.bincount(minlength=columns.n_pos)
        numbers = torch.empty_like(order)
        numbers[order] = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[positions[order]]
        self._slots = Slots(positions, numbers, bands_of(counts.tolist(), MOST_FILLED, ROOM_TO_SPARE))
        at = self._slots.places
        self._written = parts[0][2].new_zeros(self._slots.size(), parts[0][2].shape[1])
        # One after the other: side by side they would be there twice.
        for part, (_, _, it) in zip(at.split([len(it) for _, _, it in parts]), parts, strict=True):
            self._written[part] = it
        self._places = torch.zeros(len(self._written), dtype=torch.int64, device=at.device)
        self._layers = torch.full_like(self._places, -1)
        self._places[at], self._layers[at] = places, layers
        self._token = columns.token()
        by_layer = torch.zeros(columns.n_pos, len(blocks) + 1, dtype=torch.int64, device=at.device)
        by_layer.index_put_((positions, layers + 1), torch.ones_like(layers), accumulate=True)
        self._ends: Int[np.ndarray, "pos end"] = by_layer.cumsum(1).cpu().numpy()

    def meet(
        self, points: Float[Tensor, "row d_model"], rows: Standing, layers: range, out: Float[Tensor, "row column"]
    ) -> None:
        """Add the edges from what the MLPs of some layers write to what is read at single positions, one per row."""
        by_block = rows.by_block(points.to(self._written.dtype))
        for band in self._slots.before(rows.n_pos):
            ends = self._ends[band.first : band.last]
            within = slice(int(ends[:, layers.start].min()), int(ends[:, layers.stop].max()))
            length = band.last - band.first
            here = slice(band.start, band.start + length * band.room)
            written = self._written[here].view(length, band.room, -1)[:, within]
            if (own := meet_own(by_block, rows, band, written)) is None:
                continue
            columns, of_layers = (
                it[here].view(length, band.room)[:, within][own.positions] for it in (self._places, self._layers)
            )
            asked = (of_layers >= layers.start) & (of_layers < layers.stop)
            # Nothing is added to the token in place of what is not asked for; its column is written in any case, where
            # others may lie on pages that are not.
            columns = torch.where(asked, columns, self._token + rows.positions[own.rows, None])
            edges = own.products.to(out.dtype) * asked
            out.index_put_((rows.numbers[own.rows, None].expand_as(columns), columns), edges, accumulate=True)


def _columns_of(columns: Columns, layer: int, source: int, device: torch.device) -> Int[Tensor, " written"]:
    here = columns.of_layer(source)
    found = torch.arange(here.start, here.stop, device=device)
    if source != layer:
        return found
    return torch.cat([found, torch.arange(columns.error(layer), columns.error(layer + 1), device=device)])
