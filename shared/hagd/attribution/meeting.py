"""Where what rows read meets what is written: each product is an edge, put into its column."""

import torch
from jaxtyping import Float
from torch import Tensor

from hagd.attribution.blocks import Places
from hagd.attribution.columns import Columns
from hagd.attribution.coordinates import Coordinates, State
from hagd.attribution.standing import Standing


class Meeting:
    """The edges from all that MLPs write."""

    def __init__(self, columns: Columns, places: Places, coordinates: Coordinates, *, cross_layer: bool) -> None:
        """Keep where edges go.

        Args:
            columns: the sources.
            places: those of `columns`.
            coordinates: in which both sides are given.
            cross_layer: whether features write to more than one layer, so that their edges are sums.
        """
        self._columns, self._places, self._coordinates = columns, places, coordinates
        self._cross_layer = cross_layer

    def meet(self, state: State, rows: Standing, layer: int, out: Float[Tensor, "row column"]) -> None:
        """Write the edges from everything that the MLP of a layer writes."""
        read = self._coordinates.read(state)
        points = None if state.points is None else state.points.to(read.dtype)
        for source, parts in self._coordinates.view(state.layers, layer).writers.items():
            met = read.new_zeros(read.shape[1], sum(part.shape[1] for part in parts[: rows.n_pos]))
            at = 0
            for seeing, part, here in zip(rows.seeing, parts, read, strict=False):
                end = at + part.shape[1]
                torch.mm(here[seeing:], part, out=met[seeing:, at:end])
                at = end
            if points is not None:
                self._add_points(met, points, source, layer, rows)
            self._put(met, source, layer, range(rows.n_pos), out, added=self._cross_layer)

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
        for source, parts in self._coordinates.view((), layer).writers.items():
            for pos, top, bottom in rows.groups:
                met = points[top:bottom] @ parts[pos]
                self._put(met, source, layer, range(pos, pos + 1), out[top:bottom], added=added or self._cross_layer)

    def _add_points(
        self,
        met: Float[Tensor, "row written"],
        points: Float[Tensor, "row d_model"],
        source: int,
        layer: int,
        rows: Standing,
    ) -> None:
        """Add what is read at the rows' own positions to what one source layer writes at all of them."""
        bounds, own = self._columns.bounds[source], source == layer
        parts = self._coordinates.view((), layer).writers[source]
        for pos, top, bottom in rows.groups:
            start = bounds[pos] - bounds[0] + own * pos
            met[top:bottom, start : start + parts[pos].shape[1]].addmm_(points[top:bottom], parts[pos])

    def _put(
        self,
        met: Float[Tensor, "row written"],
        source: int,
        layer: int,
        positions: range,
        out: Float[Tensor, "row column"],
        *,
        added: bool,
    ) -> None:
        """Write, or add, the edges from what one source layer writes to a layer at some positions."""
        bounds = self._columns.bounds[source]
        first, last = bounds[positions.start], bounds[positions.stop]
        if source == layer:
            # Errors stand among the features, each behind those of its position.
            start = self._columns.error(layer, positions.start)
            before = first - bounds[0] + positions.start
            behind = self._places.behind[layer][positions.start : positions.stop] - before
            _write(out[:, start : start + len(positions)], met[:, behind], added=added)
            among = self._places.among[layer][first - bounds[0] : last - bounds[0]] - before
            met = met[:, among]
        _write(out[:, first:last], met, added=added)


def _write(place: Float[Tensor, "row column"], edges: Float[Tensor, "row column"], *, added: bool) -> None:
    if added:
        place += edges
    else:
        place.copy_(edges)
