"""Read vectors carried down the residual stream of a frozen prompt, and met by everything that is written there.

What a target reads is a vector at one position. Going down, a block's frozen heads carry it to earlier positions; at
each layer and position, its product with what a node writes there is an edge. Many targets go down together, sorted by
position: they share every matrix product, and none looks at positions behind the last of them (the causal cone). There
is no autograd and nothing of the size of all nodes by all nodes.

What heads carry lies in the span of the values they read, which is narrow where query heads share keys and values. So
it is first kept as coordinates in that span, one more span per layer passed, and becomes a vector of the stream only
when the coordinates would be longer than that (`_State`).

Layout: position, row, coordinate, so that a position's rows are one matrix, and those that can see it are its tail.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hagd.attribution.columns import Columns
from hagd.attribution.frozen import FrozenPrompt
from hagd.models.language_model import Norm
from hagd.models.precision import multiplies_bfloat16

_LONGEST_COORDINATES: Final = 1.5
"""Coordinates are kept until they are this many times longer than a vector of the stream, which costs a product to
become."""
_MOST_COORDINATE_CELLS: Final = 1 << 27
"""What may be held of everything written, in the coordinates of the layers above it."""
_MOST_TOKEN_CELLS: Final = 1 << 25
"""What may be held of what the first block's heads write about tokens."""


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


def coordinate_layers(frozen: FrozenPrompt, n_written: int) -> int:
    """Give how many layers' value spans make coordinates; 0 where vectors of the stream are better from the start.

    Args:
        frozen: the prompt.
        n_written: decoders and errors of all layers, each counted wherever it writes.
    """
    shape = frozen.model.config
    kv_width = shape.n_kv_heads * shape.d_head
    if kv_width >= shape.d_model or any(frozen.replacement.skip(it) is not None for it in range(shape.n_layers)):
        return 0
    layers = int(_LONGEST_COORDINATES * shape.d_model) // kv_width
    while layers and n_written * kv_width * layers * (layers + 1) // 2 > _MOST_COORDINATE_CELLS:
        layers -= 1
    return layers


def hears_tokens(frozen: FrozenPrompt) -> bool:
    """Say whether tokens are met through the first block one by one: where the prompt is not long."""
    shape, n_pos = frozen.model.config, frozen.n_pos
    return n_pos <= shape.n_heads * shape.d_head and n_pos * (n_pos + 1) // 2 * shape.d_model <= _MOST_TOKEN_CELLS


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


@dataclass(frozen=True)
class _Block:
    """The linear maps of one block, pulled back through its norms, denominators apart."""

    w_o: Float[Tensor, "d_model width"]
    """Query heads one after the other."""
    w_v: Float[Tensor, "kv_width d_model"]
    pattern: Float[Tensor, "kv_head group pos pos"]
    """By query position, then key position; times the denominator at the key."""
    skip: Float[Tensor, "d_model d_model"] | None
    skip_scale: Float[Tensor, "pos 1"]
    writers: dict[int, Float[Tensor, "written d_model"]]
    """By source layer: what each feature with a column writes here. Those of the block's own layer hold its errors,
    too, each behind the features of its position."""


@dataclass(frozen=True)
class _View:
    """What is written to a block, and what its heads read, in some coordinates."""

    heads: Float[Tensor, "coordinate width"]
    writers: dict[int, tuple[Float[Tensor, "coordinate _"], ...]]
    """By source layer, then position."""


@dataclass
class _State:
    """What the rows of a descent read at one depth: at each position, `coordinates` in the value spans of `layers`
    (of the stream itself where there are none), and at the position of each row, besides, `points`."""

    coordinates: Float[Tensor, "pos row capacity"]
    layers: tuple[int, ...]
    points: Float[Tensor, "row d_model"] | None


class Descent:
    """All that targets need to go down; made once for a prompt and a choice of columns."""

    def __init__(self, frozen: FrozenPrompt, columns: Columns, *, half: bool = False) -> None:
        """Prepare the matrices.

        Args:
            frozen: the prompt.
            columns: the sources.
            half: whether products are taken in bfloat16 where the device has instructions for it; sums stay float32.
        """
        self.columns = columns
        self.parallel = frozen.model.config.parallel_residual
        self._frozen = frozen
        self._dtype = torch.bfloat16 if half and multiplies_bfloat16(frozen.model.device) else frozen.model.dtype
        bounds = torch.from_numpy(columns.starts - columns.starts[:, :1]).to(frozen.embed.device)
        self._behind = bounds[:, 1:] + torch.arange(columns.n_pos, device=bounds.device)
        """By layer and position: where the error stands among what the layer writes."""
        self._among = [columns.positions[columns.of_layer(layer)] for layer in range(columns.n_layers)]
        self._among = [at + torch.arange(len(at), device=at.device) for at in self._among]
        """By layer: where the features stand there."""
        self._blocks = [self._prepare(layer) for layer in range(columns.n_layers)]
        self._cross_layer = any(len(block.writers) > 1 for block in self._blocks)
        self._kv_width = len(self._blocks[0].w_v)
        written = sum(len(it) for block in self._blocks for it in block.writers.values())
        self._most_layers = coordinate_layers(frozen, written)
        self._views: dict[tuple[tuple[int, ...], int], _View] = {}
        self._lengths = list(range(1, columns.n_pos + 1))
        self._tokens_heard = self._hear_tokens() if hears_tokens(frozen) else None
        self._token_views: dict[tuple[int, ...], tuple[Float[Tensor, "coordinate _"], ...]] = {}

    def _prepare(self, number: int) -> _Block:
        frozen, dtype = self._frozen, self._dtype
        block, layer = frozen.model.blocks[number], frozen.layers[number]
        attention = block.attention
        scaled = (layer.pattern * layer.attention_scale[:, 0]).unflatten(0, (len(attention.w_v), -1))
        skip = frozen.replacement.skip(number)
        writers = {
            source: self._features_written(source, w_dec)
            for source, w_dec in frozen.replacement.writers(number).items()
        }
        own = layer.error.new_empty(len(self._among[number]) + len(layer.error), layer.error.shape[1])
        own[self._among[number]] = writers.get(number, own[:0])
        own[self._behind[number]] = layer.error
        writers[number] = own
        return _Block(
            w_o=attention.w_o.permute(2, 0, 1).flatten(1).to(dtype),
            w_v=_through(block.norm_attention, attention.w_v.transpose(1, 2).flatten(0, 1)).to(dtype),
            pattern=scaled.to(dtype),
            skip=None if skip is None else _through(block.norm_mlp, skip.T).to(dtype),
            skip_scale=layer.mlp_scale,
            writers={source: written.to(dtype) for source, written in writers.items()},
        )

    def _features_written(
        self, source: int, w_dec: Float[Tensor, "d_feature d_model"]
    ) -> Float[Tensor, "feature d_model"]:
        active, chosen = self._frozen.layers[source].features, self.columns.chosen[source]
        return active.values[chosen][:, None] * w_dec[active.ids[chosen]]

    def _hear_tokens(self) -> Float[Tensor, "pair d_model"]:
        """Give what the heads of the first block write at each position about each token before it.

        There are so few sources below that block, in a prompt that is not long, that going down to them one by one
        costs less than running its heads backwards. By query position, then key position.
        """
        block, n_pos = self._blocks[0], self.columns.n_pos
        group = block.pattern.shape[1]
        values = (self._frozen.embed.to(self._dtype) @ block.w_v.T).unflatten(1, (len(block.pattern), -1))
        w_o = block.w_o.T.unflatten(0, (len(block.pattern), group, -1))
        written = torch.einsum("pvk,vgkd->vgpd", values, w_o)
        queries, keys = torch.tril_indices(n_pos, n_pos, device=written.device)
        weights = block.pattern[:, :, queries, keys]
        pairs = written.new_zeros(len(keys), written.shape[-1])
        for weight, write in zip(weights.flatten(0, 1), written.flatten(0, 1), strict=True):
            pairs += weight[:, None] * write[keys]
        return pairs

    def _meet_heard_tokens(
        self, heard: Float[Tensor, "pair d_model"], state: _State, rows: Standing, out: Float[Tensor, "row column"]
    ) -> None:
        """Add the edges from tokens through the heads of the first block, which `_hear_tokens` gave."""
        if state.layers not in self._token_views:
            pairs = heard
            if state.layers:
                pairs = heard @ torch.cat([self._blocks[layer].w_v for layer in state.layers]).T
            self._token_views[state.layers] = tuple(part.T for part in pairs.split(self._lengths))
        read = self._read(state)
        met = read.new_zeros(len(rows.positions), rows.n_pos)
        for pos, (seeing, part) in enumerate(zip(rows.seeing, self._token_views[state.layers], strict=False)):
            met[seeing:, : pos + 1].addmm_(read[pos, seeing:], part)
        if state.points is not None:
            points, whole = state.points.to(self._dtype), heard.split(self._lengths)
            for pos, first, last in rows.groups:
                met[first:last, : pos + 1].addmm_(points[first:last], whole[pos].T)
        at = self.columns.token()
        out[:, at : at + rows.n_pos] += met

    def run(
        self,
        reads: Float[Tensor, "row d_model"],
        positions: Int[Tensor, " row"],
        site: Site,
        out: Float[Tensor, "row column"],
    ) -> None:
        """Write the edges into some targets.

        Args:
            reads: what each target reads, at its own position: the gradient of its scalar there.
            positions: where, ascending.
            site: in which depth, the same for all.
            out: written, or added to; must be zero.
        """
        rows = Standing(positions, self.columns)
        layer, points = site.layer, reads
        if not site.between:
            layer -= 1
            if layer < 0:
                self._meet_points(points, rows, None, out)
                return
            self._meet_points(points, rows, layer, out)
            points = self.past_mlp(points, rows, layer)
        carried = self.carried(reads if self.parallel else points, rows, layer)
        self._run_down(carried, points, rows, layer, out)

    def run_carried(
        self,
        carried: Float[Tensor, "pos row kv_width"],
        positions: Int[Tensor, " row"],
        layer: int,
        out: Float[Tensor, "row column"],
    ) -> None:
        """Write the edges into targets that read what enters block `layer` through its values alone.

        Args:
            carried: by position, what `carried` gave.
            positions: the last position that each reads, ascending.
            layer: in which depth.
            out: as in `run`.
        """
        self._run_down(carried, None, Standing(positions, self.columns), layer, out)

    def meet_points(
        self, points: Float[Tensor, "row d_model"], rows: Standing, layer: int | None, out: Float[Tensor, "row column"]
    ) -> None:
        """Add the edges from what an MLP, or the embedding (None), writes at single positions, one per row."""
        self._meet_points(points, rows, layer, out, added=True)

    def past_mlp(
        self, points: Float[Tensor, "row d_model"], rows: Standing, layer: int
    ) -> Float[Tensor, "row d_model"]:
        """Add what reaches single positions, one per row, through the skip path of an MLP."""
        block = self._blocks[layer]
        if block.skip is None:
            return points
        return points + (points * block.skip_scale[rows.positions]).to(self._dtype) @ block.skip

    def carried(
        self, points: Float[Tensor, "row d_model"], rows: Standing, layer: int, head: int | None = None
    ) -> Float[Tensor, "pos row kv_width"]:
        """Give what the heads of a block, or one of them, carry from single positions, one per row, to all before them.

        Result: coordinates in the span of the block's values.
        """
        pattern = self._blocks[layer].pattern
        z = points.to(self._dtype) @ self._blocks[layer].w_o
        z = z.unflatten(1, (*pattern.shape[:2], -1)).permute(1, 2, 0, 3)
        if head is not None:
            only = torch.zeros_like(z)
            only.flatten(0, 1)[head] = z.flatten(0, 1)[head]
            z = only
        n_kv, _, n_rows, d_head = z.shape
        carried = z.new_empty(rows.n_pos, n_rows, n_kv, d_head)
        for pos, first, last in rows.groups:
            part = pattern[:, :, pos, : rows.n_pos].transpose(1, 2) @ z[:, :, first:last].flatten(2)
            carried[:, first:last] = part.unflatten(2, (last - first, d_head)).permute(1, 2, 0, 3)
        return carried.flatten(2)

    def _run_down(
        self,
        carried: Float[Tensor, "pos row kv_width"],
        points: Float[Tensor, "row d_model"] | None,
        rows: Standing,
        layer: int,
        out: Float[Tensor, "row column"],
    ) -> None:
        """Go down from what enters block `layer`."""
        state = self._begin(carried, points, rows, layer)
        for number in reversed(range(layer)):
            view = self._view(state.layers, number)
            self._meet(state, view, rows, number, out)
            beside = self._beside_mlp(state, rows, number)
            if beside is not None and not self.parallel:
                state.coordinates += beside
            taken: Tensor | None = None
            if number == 0 and self._tokens_heard is not None:
                self._meet_heard_tokens(self._tokens_heard, state, rows, out)
            else:
                taken = self._mixed(self._read(state), state.points, view, rows, number)
            if beside is not None and self.parallel:
                state.coordinates += beside
            if taken is not None:
                self._take_in(state, taken, rows, number)
        self._meet_tokens(state, rows, out)

    def _begin(
        self,
        carried: Float[Tensor, "pos row kv_width"],
        points: Float[Tensor, "row d_model"] | None,
        rows: Standing,
        layer: int,
    ) -> _State:
        n_pos, n_rows, kv_width = carried.shape
        if self._most_layers:
            capacity = min(self._most_layers, layer + 1) * kv_width
            coordinates = carried.new_empty(n_pos, n_rows, capacity)
            coordinates[:, :, :kv_width] = carried
            return _State(coordinates, (layer,), points)
        stream = (carried @ self._blocks[layer].w_v).to(self._frozen.embed.dtype)
        if points is not None:
            stream[rows.positions, rows.numbers] += points
        return _State(stream, (), None)

    def _read(self, state: _State) -> Float[Tensor, "pos row coordinate"]:
        """Give what the rows read, as products take it."""
        if not state.layers:
            return state.coordinates.to(self._dtype)
        return state.coordinates[:, :, : len(state.layers) * self._kv_width]

    def _beside_mlp(self, state: _State, rows: Standing, layer: int) -> Float[Tensor, "pos row d_model"] | None:
        """Give what runs through the skip path of an MLP; models with one never have coordinates in value spans."""
        block = self._blocks[layer]
        if block.skip is None:
            return None
        return (state.coordinates * block.skip_scale[: rows.n_pos, None]).to(self._dtype) @ block.skip

    def _take_in(self, state: _State, carried: Float[Tensor, "pos row kv_width"], rows: Standing, layer: int) -> None:
        """Add to a state what the heads of a block carry."""
        length = len(state.layers) * self._kv_width
        if state.layers and length + self._kv_width <= state.coordinates.shape[2]:
            state.coordinates[:, :, length : length + self._kv_width] = carried
            state.layers = (*state.layers, layer)
            return
        if state.layers:
            spans = torch.cat([self._blocks[number].w_v for number in state.layers])
            state.coordinates = (self._read(state) @ spans).to(self._frozen.embed.dtype)
            if state.points is not None:
                state.coordinates[rows.positions, rows.numbers] += state.points
            state.layers, state.points = (), None
        state.coordinates += carried @ self._blocks[layer].w_v

    def _mixed(
        self,
        heard: Float[Tensor, "pos row coordinate"],
        points: Float[Tensor, "row d_model"] | None,
        view: _View,
        rows: Standing,
        layer: int,
    ) -> Float[Tensor, "pos row kv_width"]:
        """Carry what is read behind the heads of a block to the values that they read."""
        n_pos, n_rows, _ = heard.shape
        block = self._blocks[layer]
        n_kv, group = block.pattern.shape[:2]
        z = (heard.flatten(0, 1) @ view.heads).unflatten(0, (n_pos, n_rows))
        if points is not None:
            z[rows.positions, rows.numbers] += points.to(self._dtype) @ block.w_o
        z = z.unflatten(2, (n_kv, group, -1))
        d_head = z.shape[-1]
        grouped = z.permute(2, 3, 0, 1, 4).flatten(3)
        carried = heard.new_empty(n_pos, n_rows, n_kv, d_head)
        for first in range(0, n_pos, _KEYS_TOGETHER):
            last = min(first + _KEYS_TOGETHER, n_pos)
            # No query before a key looks at it.
            mixing = block.pattern[:, :, first:n_pos, first:last].flatten(1, 2).transpose(1, 2)
            part = mixing @ grouped[:, :, first:].flatten(1, 2)
            carried[first:last] = part.unflatten(2, (n_rows, d_head)).permute(1, 2, 0, 3)
        return carried.flatten(2)

    def _view(self, layers: tuple[int, ...], number: int) -> _View:
        """Give a block in the coordinates of the value spans of some layers above it."""
        if (layers, number) not in self._views:
            block = self._blocks[number]
            heads, writers = block.w_o, block.writers
            if layers:
                spans = torch.cat([self._blocks[layer].w_v for layer in layers])
                heads = spans @ block.w_o
                writers = {source: written @ spans.T for source, written in block.writers.items()}
            parts = {source: self._by_position(source, number, written) for source, written in writers.items()}
            self._views[layers, number] = _View(heads, parts)
        return self._views[layers, number]

    def _by_position(
        self, source: int, layer: int, written: Float[Tensor, "written coordinate"]
    ) -> tuple[Float[Tensor, "coordinate _"], ...]:
        counts = np.diff(self.columns.starts[source]) + (source == layer)
        return tuple(part.T for part in written.split(counts.tolist()))

    def _meet(
        self,
        state: _State,
        view: _View,
        rows: Standing,
        layer: int,
        out: Float[Tensor, "row column"],
    ) -> None:
        """Write the edges from everything that the MLP of a layer writes."""
        read = self._read(state)
        points = None if state.points is None else state.points.to(self._dtype)
        for source, parts in view.writers.items():
            met = read.new_zeros(read.shape[1], sum(part.shape[1] for part in parts[: rows.n_pos]))
            at = 0
            for seeing, part, here in zip(rows.seeing, parts, read, strict=False):
                end = at + part.shape[1]
                torch.mm(here[seeing:], part, out=met[seeing:, at:end])
                at = end
            if points is not None:
                self._add_points(met, points, source, layer, rows)
            self._put(met, source, layer, range(rows.n_pos), out, added=self._cross_layer)

    def _add_points(
        self,
        met: Float[Tensor, "row written"],
        points: Float[Tensor, "row d_model"],
        source: int,
        layer: int,
        rows: Standing,
    ) -> None:
        """Add what is read at the rows' own positions to what one source layer writes at all of them."""
        bounds, own = self.columns.bounds[source], source == layer
        parts = self._view((), layer).writers[source]
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
        bounds = self.columns.bounds[source]
        first, last = bounds[positions.start], bounds[positions.stop]
        if source == layer:
            # Errors stand among the features, each behind those of its position.
            start = self.columns.error(layer, positions.start)
            behind = self._behind[layer][positions.start : positions.stop] - (first - bounds[0] + positions.start)
            _write(out[:, start : start + len(positions)], met[:, behind], added=added)
            among = self._among[layer][first - bounds[0] : last - bounds[0]] - (first - bounds[0] + positions.start)
            met = met[:, among]
        _write(out[:, first:last], met, added=added)

    def _meet_points(
        self,
        points: Float[Tensor, "row d_model"],
        rows: Standing,
        layer: int | None,
        out: Float[Tensor, "row column"],
        *,
        added: bool = False,
    ) -> None:
        """Write, or add, the edges from what is written at single positions, one per row."""
        if layer is None:
            at = self.columns.token() + rows.positions
            out[rows.numbers, at] += (points * self._frozen.embed[rows.positions]).sum(1)
            return
        read, added = points.to(self._dtype), added or self._cross_layer
        for source, parts in self._view((), layer).writers.items():
            for pos, top, bottom in rows.groups:
                met = read[top:bottom] @ parts[pos]
                self._put(met, source, layer, range(pos, pos + 1), out[top:bottom], added=added)

    def _meet_tokens(self, state: _State, rows: Standing, out: Float[Tensor, "row column"]) -> None:
        at, embed = self.columns.token(), self._frozen.embed.to(self._dtype)[: rows.n_pos]
        if state.layers:
            embed = embed @ torch.cat([self._blocks[number].w_v for number in state.layers]).T
        out[:, at : at + rows.n_pos] += (self._read(state) * embed[:, None]).sum(2).T
        if state.points is not None:
            self._meet_points(state.points, rows, None, out, added=True)


_KEYS_TOGETHER: Final = 32
"""Key positions whose queries are gathered in one product: those before the first of them are left out."""


def _write(place: Float[Tensor, "row column"], edges: Float[Tensor, "row column"], *, added: bool) -> None:
    if added:
        place += edges
    else:
        place.copy_(edges)


def _through(norm: Norm, weights: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    """Pull the rows of a matrix back through a norm, its denominator left to be multiplied later."""
    return norm.pull_back(weights, weights.new_ones(1))
