"""The blocks of a frozen prompt as linear maps: what their heads and skip paths do, and what is written to them.

Norms are pulled into the maps, and denominators kept apart: they differ by position.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hagd.attribution.bands import Slots, bands_of
from hagd.attribution.columns import Columns
from hagd.attribution.frozen import FrozenPrompt
from hagd.models.language_model import Norm

QUERIES_TOGETHER: Final = 32
"""Query positions that are mixed in one product: keys behind the last of them, and targets before the first, are left
out."""


@dataclass(frozen=True)
class Block:
    """The linear maps of one block, pulled back through its norms, denominators apart."""

    w_o: Float[Tensor, "d_model width"]
    """Query heads one after the other."""
    w_v: Float[Tensor, "kv_width d_model"]
    pattern: Float[Tensor, "kv_head group pos pos"]
    """By query position, then key position; times the denominator at the key."""
    mixing: tuple[Float[Tensor, "kv_head _ _"], ...]
    """The same by key position, then query position and head: of so many query positions after the other, with keys
    up to the last of them."""
    skip: Float[Tensor, "d_model d_model"] | None
    skip_scale: Float[Tensor, "pos 1"]
    writers: dict[int, Float[Tensor, "written d_model"]]
    """By source layer: what each feature with a column writes here; behind those of the own layer stand its errors."""
    slots: dict[int, Slots]
    """By source layer: where all that stands in bands, an error behind the features of its position."""


def prepare_block(frozen: FrozenPrompt, columns: Columns, number: int, dtype: torch.dtype) -> Block:
    """Make the maps of a block.

    Args:
        frozen: the prompt.
        columns: the sources that are written.
        number: the layer.
        dtype: of products; denominators stay as they are.
    """
    block, layer = frozen.model.blocks[number], frozen.layers[number]
    attention = block.attention
    scaled = (layer.pattern * layer.attention_scale[:, 0]).unflatten(0, (len(attention.w_v), -1))
    skip = frozen.replacement.skip(number)
    writers = {
        source: features_written(frozen, columns, source, w_dec)
        for source, w_dec in frozen.replacement.writers(number).items()
    }
    writers[number] = torch.cat([writers.get(number, layer.error[:0]), layer.error])
    return Block(
        w_o=attention.w_o.permute(2, 0, 1).flatten(1).to(dtype),
        w_v=through(block.norm_attention, attention.w_v.transpose(1, 2).flatten(0, 1)).to(dtype),
        pattern=scaled.to(dtype),
        mixing=_mixing(scaled.to(dtype)),
        skip=None if skip is None else through(block.norm_mlp, skip.T).to(dtype),
        skip_scale=layer.mlp_scale,
        writers={source: written.to(dtype) for source, written in writers.items()},
        slots={source: _slots(columns, source, errors=source == number) for source in writers},
    )


def _mixing(pattern: Float[Tensor, "kv_head group pos pos"]) -> tuple[Float[Tensor, "kv_head _ _"], ...]:
    n_pos = pattern.shape[-1]
    by_key = pattern.permute(0, 3, 2, 1)
    firsts = range(0, n_pos, QUERIES_TOGETHER)
    ends = [(first, min(first + QUERIES_TOGETHER, n_pos)) for first in firsts]
    return tuple(by_key[:, :last, first:last].flatten(2) for first, last in ends)


def _slots(columns: Columns, source: int, *, errors: bool) -> Slots:
    """Give where the features of a layer stand, and perhaps its errors."""
    here, starts = columns.of_layer(source), columns.starts[source]
    positions, counts = columns.positions[here], np.diff(starts)
    device = positions.device
    slots = torch.arange(here.start, here.stop, device=device) - torch.from_numpy(starts).to(device)[positions]
    if errors:
        positions = torch.cat([positions, torch.arange(columns.n_pos, device=device)])
        slots = torch.cat([slots, torch.from_numpy(counts).to(device)])
    return Slots(positions, slots, bands_of((counts + errors).tolist()))


def features_written(
    frozen: FrozenPrompt, columns: Columns, source: int, w_dec: Float[Tensor, "d_feature d_model"]
) -> Float[Tensor, "feature d_model"]:
    """Give what the features of a source layer that have a column write with a decoder."""
    active, chosen = frozen.layers[source].features, columns.chosen[source]
    return active.values[chosen][:, None] * w_dec[active.ids[chosen]]


def through(norm: Norm, weights: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    """Pull the rows of a matrix back through a norm, its denominator left to be multiplied later."""
    return norm.pull_back(weights, weights.new_ones(1))
