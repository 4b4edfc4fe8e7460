"""Tokens met through the first block, one by one.

Below the first attention there are so few sources, in a prompt that is not long, that going down to them one by one
costs less than running its heads backwards: what the heads write about each token at each position is a table.
"""

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from hagd.attribution.bands import Slots, bands_of
from hagd.attribution.blocks import Block
from hagd.attribution.columns import Columns
from hagd.attribution.coordinates import Coordinates, State
from hagd.attribution.frozen import FrozenPrompt
from hagd.attribution.meeting import meet_slots
from hagd.attribution.own_positions import MOST_FILLED, ROOM_TO_SPARE, meet_own
from hagd.attribution.standing import Standing
from hagd.models.precision import multiply

_MOST_TOKEN_CELLS: Final = 1 << 25
"""What may be held of what the first block's heads write about tokens."""


def hears_tokens(frozen: FrozenPrompt) -> bool:
    """Say whether tokens are met through the first block one by one: where the prompt is not long."""
    shape, n_pos = frozen.model.config, frozen.n_pos
    return n_pos <= shape.n_heads * shape.d_head and n_pos * (n_pos + 1) // 2 * shape.d_model <= _MOST_TOKEN_CELLS


class HeardTokens:
    """What the heads of the first block write at each position about each token up to it, and edges from that."""

    def __init__(
        self,
        block: Block,
        embed: Float[Tensor, "pos d_model"],
        columns: Columns,
        coordinates: Coordinates,
        *,
        direct: bool,
    ) -> None:
        """Take the table of a first block.

        Args:
            block: the first one.
            embed: the tokens, as products take them.
            columns: the sources.
            coordinates: in which states are given.
            direct: whether tokens stand in the table themselves, too, because what is read behind the heads is read
                of them as well. Where the MLP has a skip path beside the heads it is not.
        """
        self._columns, self._coordinates, self.direct = columns, coordinates, direct
        pairs, n_pos = written_about_tokens(block, embed), columns.n_pos
        queries, keys = torch.tril_indices(n_pos, n_pos, device=pairs.device)
        if direct:
            pairs[queries == keys] += embed
        self._pairs, self._slots = pairs, Slots(queries, keys, bands_of(range(1, n_pos + 1)))
        self._wide = Slots(queries, keys, bands_of(range(1, n_pos + 1), MOST_FILLED, ROOM_TO_SPARE))
        self._packed_wide: Float[Tensor, "slot d_model"] | None = None
        self._views: dict[bool, Float[Tensor, "slot coordinate"]] = {}

    def meet(self, state: State, rows: Standing, out: Float[Tensor, "row column"]) -> None:
        """Add the edges from tokens through the heads of the first block, and where they are direct, beside those."""
        read, slots, at = self._coordinates.read(state), self._slots, self._columns.token()
        if state.points is not None:
            self._meet_own(state.points.to(read.dtype), rows, out)
        for met in meet_slots(read, rows, slots, self._packed(state.layers)):
            end = met.band.first + len(met.products)
            out[met.top :, at : at + end] += met.products.sum(0)[:end].T

    def _meet_own(self, points: Float[Tensor, "row d_model"], rows: Standing, out: Float[Tensor, "row column"]) -> None:
        by_block, at = rows.by_block(points), self._columns.token()
        for band in self._wide.before(rows.n_pos):
            length = band.last - band.first
            here = slice(band.start, band.start + length * band.room)
            own = meet_own(by_block, rows, band, self._own_pairs()[here].view(length, band.room, -1))
            if own is not None:
                out[own.rows, at : at + band.room] += own.products

    def _own_pairs(self) -> Float[Tensor, "slot d_model"]:
        if self._packed_wide is None:
            self._packed_wide = self._wide.pack(self._pairs)
        return self._packed_wide

    def _packed(self, layers: tuple[int, ...]) -> Float[Tensor, "slot coordinate"]:
        if bool(layers) not in self._views:
            pairs = multiply(self._pairs, self._coordinates.spans_above(0).T) if layers else self._pairs
            self._views[bool(layers)] = self._slots.pack(pairs)
        whole = self._views[bool(layers)]
        return whole[:, -self._coordinates.length(layers) :] if layers else whole


def written_about_tokens(block: Block, embed: Float[Tensor, "pos d_model"]) -> Float[Tensor, "pair d_model"]:
    """Give what heads write, by query position, then key position: summed over heads in float32 at least."""
    group, n_pos = block.pattern.shape[1], len(embed)
    values = (embed @ block.w_v.T).unflatten(1, (len(block.pattern), -1))
    w_o = block.w_o.T.unflatten(0, (len(block.pattern), group, -1))
    written = torch.einsum("pvk,vgkd->vgpd", values, w_o)
    queries, keys = torch.tril_indices(n_pos, n_pos, device=written.device)
    weights = block.pattern[:, :, queries, keys]
    sums = torch.promote_types(written.dtype, torch.float32)
    pairs = written.new_zeros(len(keys), written.shape[-1], dtype=sums)
    for weight, write in zip(weights.flatten(0, 1), written.flatten(0, 1), strict=True):
        pairs += weight[:, None].to(sums) * write[keys]
    return pairs.to(embed.dtype)
