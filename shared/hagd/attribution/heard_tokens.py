"""Tokens met through the first block, one by one.

Below the first attention there are so few sources, in a prompt that is not long, that going down to them one by one
costs less than running its heads backwards: what the heads write about each token at each position is a table.
"""

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from hagd.attribution.blocks import Block
from hagd.attribution.columns import Columns
from hagd.attribution.coordinates import Coordinates, State
from hagd.attribution.frozen import FrozenPrompt
from hagd.attribution.standing import Standing

_MOST_TOKEN_CELLS: Final = 1 << 25
"""What may be held of what the first block's heads write about tokens."""


def hears_tokens(frozen: FrozenPrompt) -> bool:
    """Say whether tokens are met through the first block one by one: where the prompt is not long."""
    shape, n_pos = frozen.model.config, frozen.n_pos
    return n_pos <= shape.n_heads * shape.d_head and n_pos * (n_pos + 1) // 2 * shape.d_model <= _MOST_TOKEN_CELLS


class HeardTokens:
    """What the heads of the first block write at each position about each token before it, and edges from that."""

    def __init__(
        self, block: Block, embed: Float[Tensor, "pos d_model"], columns: Columns, coordinates: Coordinates
    ) -> None:
        """Take the table of a first block; `embed` is as products take it."""
        self._columns, self._coordinates = columns, coordinates
        self._pairs = _written_about_tokens(block, embed)
        self._lengths = list(range(1, columns.n_pos + 1))
        self._views: dict[tuple[int, ...], Sequence[Float[Tensor, "coordinate _"]]] = {}

    def meet(self, state: State, rows: Standing, out: Float[Tensor, "row column"]) -> None:
        """Add the edges from tokens through the heads of the first block."""
        if state.layers not in self._views:
            pairs = self._pairs
            if state.layers:
                pairs = pairs @ self._coordinates.spans(state.layers).T
            self._views[state.layers] = tuple(part.T for part in pairs.split(self._lengths))
        read = self._coordinates.read(state)
        met = read.new_zeros(len(rows.positions), rows.n_pos)
        for pos, (seeing, part) in enumerate(zip(rows.seeing, self._views[state.layers], strict=False)):
            met[seeing:, : pos + 1].addmm_(read[pos, seeing:], part)
        if state.points is not None:
            points, whole = state.points.to(read.dtype), self._pairs.split(self._lengths)
            for pos, first, last in rows.groups:
                met[first:last, : pos + 1].addmm_(points[first:last], whole[pos].T)
        at = self._columns.token()
        out[:, at : at + rows.n_pos] += met


def _written_about_tokens(block: Block, embed: Float[Tensor, "pos d_model"]) -> Float[Tensor, "pair d_model"]:
    """Give what heads write, by query position, then key position."""
    group, n_pos = block.pattern.shape[1], len(embed)
    values = (embed @ block.w_v.T).unflatten(1, (len(block.pattern), -1))
    w_o = block.w_o.T.unflatten(0, (len(block.pattern), group, -1))
    written = torch.einsum("pvk,vgkd->vgpd", values, w_o)
    queries, keys = torch.tril_indices(n_pos, n_pos, device=written.device)
    weights = block.pattern[:, :, queries, keys]
    pairs = written.new_zeros(len(keys), written.shape[-1])
    for weight, write in zip(weights.flatten(0, 1), written.flatten(0, 1), strict=True):
        pairs += weight[:, None] * write[keys]
    return pairs
