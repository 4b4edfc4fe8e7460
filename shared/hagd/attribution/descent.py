"""Read vectors carried down the residual stream of a frozen prompt, and met by everything that is written there.

What a target reads is a vector at one position. Going down, a block's frozen heads carry it to earlier positions; at
each layer and position, its product with what a node writes there is an edge. Many targets go down together, sorted by
position: they share every matrix product, and none looks at positions behind the last of them (the causal cone). There
is no autograd and nothing of the size of all nodes by all nodes.

Layout: position, row, coordinate, so that a position's rows are one matrix, and those that can see it are its tail.
"""

from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hagd.attribution.blocks import QUERIES_TOGETHER, prepare_block
from hagd.attribution.columns import Columns
from hagd.attribution.coordinates import Coordinates, State, coordinate_layers
from hagd.attribution.frozen import FrozenPrompt
from hagd.attribution.heard_tokens import HeardTokens, hears_tokens
from hagd.attribution.hops import patterns_at, read_behind, spread, through_two
from hagd.attribution.meeting import Meeting
from hagd.attribution.standing import Site, Standing
from hagd.models.precision import multiplies_bfloat16, multiply

CHUNK_CELLS: Final = 1 << 20
"""Cells of the stream of the targets that go down together: few enough to stay near the processor."""
HALF_CHUNK_CELLS: Final = 1 << 22
"""The same in bfloat16, where each shape of a product that is new costs as much as many products."""


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
        self._dtype = torch.bfloat16 if half and multiplies_bfloat16(frozen.model.device) else frozen.model.dtype
        self._embed = frozen.embed
        self._blocks = [prepare_block(frozen, columns, layer, self._dtype) for layer in range(columns.n_layers)]
        written = sum(len(it) for block in self._blocks for it in block.writers.values())
        self._coordinates = Coordinates(
            self._blocks,
            coordinate_layers(frozen, written),
            products=self._dtype,
            sums=frozen.embed.dtype,
        )
        self._meeting = Meeting(columns, self._blocks, self._coordinates)
        self._heard: HeardTokens | None = None
        if hears_tokens(frozen):
            embed = frozen.embed.to(self._dtype)
            direct = self._blocks[0].skip is None or not self.parallel
            self._heard = HeardTokens(self._blocks[0], embed, columns, self._coordinates, direct=direct)

    @property
    def most_places(self) -> int:
        """Give how many positions, all targets counted together, should go down together."""
        cells = HALF_CHUNK_CELLS if self._dtype == torch.bfloat16 else CHUNK_CELLS
        return cells // self._embed.shape[1]

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
                self._meet_own_tokens(points, rows, out)
                return
            self._meeting.meet_points(points, rows, range(layer, layer + 1), out)
            points = self.past_mlp(points, rows, layer)
        self._run_down(read_behind(self._blocks[layer], reads if self.parallel else points), points, rows, layer, out)

    def run_head(
        self,
        points: Float[Tensor, "row d_model"],
        rows: Standing,
        layer: int,
        head: int,
        out: Float[Tensor, "row column"],
    ) -> None:
        """Write the edges into targets that read block `layer` through one of its heads alone; `points` is what they
        read behind it, at single positions."""
        self._run_down(read_behind(self._blocks[layer], points, head), None, rows, layer, out)

    def meet_points(
        self, points: Float[Tensor, "row d_model"], rows: Standing, layer: int | None, out: Float[Tensor, "row column"]
    ) -> None:
        """Add the edges from what an MLP, or the embedding (None), writes at single positions, one per row."""
        if layer is None:
            self._meet_own_tokens(points, rows, out)
        else:
            self._meeting.meet_points(points, rows, range(layer, layer + 1), out)

    def past_mlp(
        self, points: Float[Tensor, "row d_model"], rows: Standing, layer: int
    ) -> Float[Tensor, "row d_model"]:
        """Add what reaches single positions, one per row, through the skip path of an MLP."""
        block = self._blocks[layer]
        if block.skip is None:
            return points
        return points + (points * block.skip_scale[rows.positions]).to(self._dtype) @ block.skip

    def _run_down(
        self,
        z: Float[Tensor, "kv_head group row d_head"],
        points: Float[Tensor, "row d_model"] | None,
        rows: Standing,
        layer: int,
        out: Float[Tensor, "row column"],
    ) -> None:
        """Go down from what is read behind the heads of a block, and besides at single positions of what enters it."""
        state = self._coordinates.begin(rows, layer)
        spread(patterns_at(self._blocks[layer], rows), z, rows, self._coordinates.first(state))
        self._coordinates.settle(state, points, rows, layer)
        apart = state.points
        self._descend(state, z, points, rows, layer, out)
        if apart is not None:
            # They met nothing on the way until coordinates became a vector of the stream, if ever.
            self._meeting.meet_points(apart, rows, range(self._coordinates.last_apart(layer), layer), out)

    def _descend(
        self,
        state: State,
        z: Float[Tensor, "kv_head group row d_head"],
        points: Float[Tensor, "row d_model"] | None,
        rows: Standing,
        layer: int,
        out: Float[Tensor, "row column"],
    ) -> None:
        """Meet what all blocks below one write, and the tokens."""
        for number in reversed(range(layer)):
            self._meeting.meet(state, rows, number, out)
            beside = self._beside_mlp(state, rows, number)
            if beside is not None and not self.parallel:
                state.coordinates += beside
            taken: Tensor | None = None
            if number == 0 and self._heard is not None:
                self._heard.meet(state, rows, out)
                if self._heard.direct:
                    return
            else:
                taken = self._coordinates.place(state)
                if number == layer - 1 and beside is None:
                    self._mix_again(z, points, rows, number, taken)
                else:
                    self._mix(state, rows, number, taken)
            if beside is not None and self.parallel:
                state.coordinates += beside
            if taken is not None:
                self._coordinates.take_in(state, taken, rows, number)
        self._meet_tokens(state, rows, out)

    def _beside_mlp(self, state: State, rows: Standing, layer: int) -> Float[Tensor, "pos row d_model"] | None:
        """Give what runs through the skip path of an MLP; models with one never have coordinates in value spans."""
        block = self._blocks[layer]
        if block.skip is None:
            return None
        return (state.coordinates * block.skip_scale[: rows.n_pos, None]).to(self._dtype) @ block.skip

    def _mix_again(
        self,
        z: Float[Tensor, "kv_head group row d_head"],
        points: Float[Tensor, "row d_model"] | None,
        rows: Standing,
        layer: int,
        place: Float[Tensor, "pos row kv_width"],
    ) -> None:
        """Do as `_mix` does, in the block below the one behind whose heads targets read `z`."""
        block = self._blocks[layer]
        patterns, ways = through_two(self._blocks[layer + 1], block, self._coordinates.between(layer), z, rows)
        if points is not None:
            patterns = torch.cat([patterns, patterns_at(block, rows)], dim=2)
            ways = torch.cat([ways, read_behind(block, points)], dim=1)
        spread(patterns, ways, rows, place)

    def _mix(self, state: State, rows: Standing, layer: int, place: Float[Tensor, "pos row kv_width"]) -> None:
        """Carry what is read behind the heads of a block to the values that they read, and write it to a place."""
        heard, block = self._coordinates.read(state), self._blocks[layer]
        n_pos, n_rows, _ = heard.shape
        n_kv, group = block.pattern.shape[:2]
        heads = self._coordinates.view(state.layers, layer).heads
        own = None if state.points is None else multiply(state.points.to(self._dtype), block.w_o)
        whole = by_head = place.unflatten(2, (n_kv, -1))
        if n_pos > QUERIES_TOGETHER and self._dtype != self._embed.dtype:
            # Sums over several parts stay in the precision of the stream.
            by_head = torch.empty_like(whole, dtype=self._embed.dtype)
        for first in range(0, n_pos, QUERIES_TOGETHER):
            last, top = min(first + QUERIES_TOGETHER, n_pos), rows.seeing[first]
            z = multiply(heard[first:last, top:].flatten(0, 1), heads).unflatten(0, (last - first, n_rows - top))
            if own is not None:
                _, here = rows.between(first, last)
                z[rows.positions[here] - first, rows.numbers[here] - top] += own[here]
            queries = z.unflatten(2, (n_kv, group, -1)).permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)
            by_head[first:last, :top] = 0
            for head in range(n_kv):
                mixing = block.mixing[first // QUERIES_TOGETHER][head, :last, : group * (last - first)]
                part = multiply(mixing, queries[head]).unflatten(1, (n_rows - top, -1))
                by_head[:first, top:, head] += part[:first]
                by_head[first:last, top:, head] = part[first:]
        if by_head is not whole:
            whole.copy_(by_head)

    def _meet_tokens(self, state: State, rows: Standing, out: Float[Tensor, "row column"]) -> None:
        at, embed = self.columns.token(), self._embed.to(self._dtype)[: rows.n_pos]
        if state.layers:
            embed = embed @ self._coordinates.spans(state.layers).T
        out[:, at : at + rows.n_pos] += (self._coordinates.read(state) * embed[:, None]).sum(2).T
        if state.points is not None:
            self._meet_own_tokens(state.points, rows, out)

    def _meet_own_tokens(
        self, points: Float[Tensor, "row d_model"], rows: Standing, out: Float[Tensor, "row column"]
    ) -> None:
        """Add the edges from the tokens at single positions, one per row."""
        at = self.columns.token() + rows.positions
        out[rows.numbers, at] += (points * self._embed[rows.positions]).sum(1)
