"""The blocks of a frozen prompt as linear maps: what their heads and skip paths do, and what is written to them.

Norms are pulled into the maps, and denominators kept apart: they differ by position.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hagd.attribution.columns import Columns
from hagd.attribution.frozen import FrozenPrompt
from hagd.models.language_model import Norm


@dataclass(frozen=True)
class Block:
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
class Places:
    """Where features and errors stand among what their layer writes: by position, the error behind the features."""

    among: tuple[Int[Tensor, " _"], ...]
    """By layer: places of the features."""
    behind: Int[Tensor, "layer pos"]
    """Places of the errors."""

    @staticmethod
    def of(columns: Columns) -> "Places":
        """Number what is written, for the features that have a column."""
        device = columns.positions.device
        bounds = torch.from_numpy(columns.starts - columns.starts[:, :1]).to(device)
        positions = [columns.positions[columns.of_layer(layer)] for layer in range(columns.n_layers)]
        return Places(
            tuple(at + torch.arange(len(at), device=device) for at in positions),
            bounds[:, 1:] + torch.arange(columns.n_pos, device=device),
        )


def prepare_block(frozen: FrozenPrompt, columns: Columns, places: Places, number: int, dtype: torch.dtype) -> Block:
    """Make the maps of a block.

    Args:
        frozen: the prompt.
        columns: the sources that are written.
        places: those of `columns`.
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
    own = layer.error.new_empty(len(places.among[number]) + len(layer.error), layer.error.shape[1])
    own[places.among[number]] = writers.get(number, own[:0])
    own[places.behind[number]] = layer.error
    writers[number] = own
    return Block(
        w_o=attention.w_o.permute(2, 0, 1).flatten(1).to(dtype),
        w_v=through(block.norm_attention, attention.w_v.transpose(1, 2).flatten(0, 1)).to(dtype),
        pattern=scaled.to(dtype),
        skip=None if skip is None else through(block.norm_mlp, skip.T).to(dtype),
        skip_scale=layer.mlp_scale,
        writers={source: written.to(dtype) for source, written in writers.items()},
    )


def features_written(
    frozen: FrozenPrompt, columns: Columns, source: int, w_dec: Float[Tensor, "d_feature d_model"]
) -> Float[Tensor, "feature d_model"]:
    """Give what the features of a source layer that have a column write with a decoder."""
    active, chosen = frozen.layers[source].features, columns.chosen[source]
    return active.values[chosen][:, None] * w_dec[active.ids[chosen]]


def through(norm: Norm, weights: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    """Pull the rows of a matrix back through a norm, its denominator left to be multiplied later."""
    return norm.pull_back(weights, weights.new_ones(1))
