"""Where what rows read meets what is written: each product is an edge, put into its column."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hagd.attribution.bands import Slots
from hagd.attribution.blocks import Block
from hagd.attribution.columns import Columns
from hagd.attribution.coordinates import Coordinates, State
from hagd.attribution.standing import Standing


def meet_slots(
    read: Float[Tensor, "pos row coordinate"], rows: Standing, slots: Slots, packed: Float[Tensor, "slot coordinate"]
) -> Float[Tensor, "reached row"]:
    """Take the products of rows with what `Slots.pack` gave, up to the last of their positions."""
    products = read.new_empty(slots.size(rows.n_pos), len(rows.positions))
    for band in slots.before(rows.n_pos):
        last = min(band.last, rows.n_pos)
        here = slice(band.start, band.start + (last - band.first) * band.room)
        by_position = last - band.first, band.room, -1
        reads = read[band.first : last].transpose(1, 2)
        torch.bmm(packed[here].view(by_position), reads, out=products[here].view(by_position))
    return products


def add_blocks(
    products: Float[Tensor, "reached row"],
    points: Float[Tensor, "block within d_model"],
    rows: Standing,
    slots: Slots,
    packed: Float[Tensor, "slot d_model"],
) -> None:
    """Add the products of what rows read at their own positions, by `Standing.by_block`, with what is written there."""
    for band in slots.before(rows.n_pos):
        blocks, here = rows.between(band.first, band.last)
        if here.start == here.stop:
            continue
        size, positions = (band.last - band.first) * band.room, rows.positions[here] - band.first
        written = packed[band.start : band.start + size].unflatten(0, (-1, band.room))
        found = torch.bmm(written[rows.of_blocks[blocks] - band.first], points[blocks].transpose(1, 2))
        by_row = found[rows.block[here] - blocks.start, :, rows.within[here]]
        places = band.start + band.room * positions[:, None] + torch.arange(band.room, device=positions.device)
        products[places, rows.numbers[here, None]] += by_row


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
        # Features that write to more than one layer have edges that are sums.
        self._sums = any(len(block.writers) > 1 for block in blocks)

    def meet(self, state: State, rows: Standing, layer: int, out: Float[Tensor, "row column"]) -> None:
        """Write the edges from everything that the MLP of a layer writes."""
        read = self._coordinates.read(state)
        blocks = None if state.points is None else rows.by_block(state.points.to(read.dtype))
        whole = self._coordinates.view((), layer).writers
        for source, packed in self._coordinates.view(state.layers, layer).writers.items():
            slots = self._blocks[layer].slots[source]
            products = meet_slots(read, rows, slots, packed)
            if blocks is not None:
                add_blocks(products, blocks, rows, slots, whole[source])
            self._put(products, source, layer, rows.n_pos, out, added=self._sums)

    def meet_points(
        self,
        points: Float[Tensor, "row d_model"],
        rows: Standing,
        layer: int,
        out: Float[Tensor, "row column"],
        *,
        added: bool = False,
    ) -> None:
        """Write, or add, the edges from what the MLP of a layer writes at single positions, one per row.

        `points` are as products take them.
        """
        blocks = rows.by_block(points)
        for source, packed in self._coordinates.view((), layer).writers.items():
            slots = self._blocks[layer].slots[source]
            products = points.new_zeros(slots.size(rows.n_pos), len(points))
            add_blocks(products, blocks, rows, slots, packed)
            self._put(products, source, layer, rows.n_pos, out, added=added or self._sums)

    def _put(
        self,
        products: Float[Tensor, "reached row"],
        source: int,
        layer: int,
        n_pos: int,
        out: Float[Tensor, "row column"],
        *,
        added: bool,
    ) -> None:
        """Write, or add, the edges from what one source layer writes to a layer."""
        places, bounds = self._blocks[layer].slots[source].places, self._columns.bounds[source]
        first, last = bounds[0], bounds[n_pos]
        _write(out[:, first:last], products[places[: last - first]].T, added=added)
        if source == layer:
            n_features, start = bounds[-1] - first, self._columns.error(layer)
            errors = products[places[n_features : n_features + n_pos]]
            _write(out[:, start : start + n_pos], errors.T, added=added)


def _write(place: Float[Tensor, "row column"], edges: Float[Tensor, "row column"], *, added: bool) -> None:
    if added:
        place += edges
    else:
        place.copy_(edges)
