"""One run of a model on one prompt, and all that is held constant while edges are taken.

Attention patterns, norm denominators and gates keep the values of this run. What is left is linear in what the nodes
write, so the residual stream is a sum over nodes and biases; `FrozenPrompt.check` reads that back before anything is
built on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hagd.attribution.replacement import Replacement
from hagd.errors import InvalidInputError, NonFiniteError
from hagd.models.attention import attend, project_heads
from hagd.models.language_model import LanguageModel, Norm

READ_BACK_TOLERANCE: Final = 1e-3
"""Largest difference between the linear view and the run, relative to the largest entry of the same position."""
_DENSE: Final = 8
"""Where more than one feature in so many is active, a dense product is faster than a sparse one."""


@dataclass(frozen=True)
class ActiveFeatures:
    """The features of one layer that are not zero, by (position, id)."""

    positions: Int[Tensor, " active"]
    ids: Int[Tensor, " active"]
    values: Float[Tensor, " active"]
    factors: Float[Tensor, " active"]
    """The frozen gate of each; 1 where the encoder has none."""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class FrozenLayer:
    """What one block did."""

    attention_scale: Float[Tensor, "pos 1"]
    pattern: Float[Tensor, "head pos pos"]
    mlp_in: Float[Tensor, "pos d_model"]
    mlp_scale: Float[Tensor, "pos 1"]
    features: ActiveFeatures
    error: Float[Tensor, "pos d_model"]
    """What the MLP writes and the dictionaries do not; all of it where there is none."""
    written: Float[Tensor, "pos d_model"]
    """What features and error of the layer's MLP write together: its output without biases and skip path."""


@dataclass(frozen=True)
class Stream:
    """The residual stream of a run, at every place where something reads."""

    before_attention: tuple[Float[Tensor, "pos d_model"], ...]
    before_mlp: tuple[Float[Tensor, "pos d_model"], ...]
    final: Float[Tensor, "pos d_model"]

    def difference(self, other: "Stream") -> float:
        """Give the largest difference to another one, relative to the largest entry of this one at the same position:
        where models park attention entries dwarf all others."""
        mine = (*self.before_attention, *self.before_mlp, self.final)
        theirs = (*other.before_attention, *other.before_mlp, other.final)
        pairs = zip(mine, theirs, strict=True)
        return max(
            float(((here - there).abs().amax(1) / here.abs().amax(1).clamp_min(1e-30)).max()) for here, there in pairs
        )


@dataclass(frozen=True)
class FrozenPrompt:
    """A prompt, the model and dictionaries it ran through, and what was recorded."""

    model: LanguageModel
    replacement: Replacement
    tokens: Int[Tensor, " pos"]
    embed: Float[Tensor, "pos d_model"]
    layers: tuple[FrozenLayer, ...]
    final_scale: Float[Tensor, "pos 1"]
    stream: Stream

    @property
    def n_pos(self) -> int:
        return len(self.tokens)

    @property
    def n_active(self) -> int:
        """Count the features that are active anywhere."""
        return sum(len(layer.features) for layer in self.layers)

    def replay(self, *, nodes: bool, heads: bool = True) -> Stream:
        """Run the frozen, linear model: on all that the nodes wrote and the biases, or on the biases alone.

        Without `heads` nothing is moved between positions: what remains where heads are nodes of their own.
        """
        model = self.model
        resid = torch.zeros_like(self.embed) + model.position_part(self.n_pos)
        if nodes:
            resid = resid + self.embed
        before_attention: list[Tensor] = []
        before_mlp: list[Tensor] = []
        for number, (block, layer) in enumerate(zip(model.blocks, self.layers, strict=True)):
            before_attention.append(resid)
            z = self.head_outputs(number, resid)
            attended = resid + project_heads(block.attention, z if heads else torch.zeros_like(z))
            heard = model.mlp_reads(resid, attended)
            before_mlp.append(heard)
            resid = attended
            if (bias := self.replacement.bias(number)) is not None:
                resid = resid + bias
            if (skip := self.replacement.skip(number)) is not None:
                resid = resid + frozen_norm(block.norm_mlp, heard, layer.mlp_scale) @ skip
            if nodes:
                resid = resid + self._written(number)
        return Stream(tuple(before_attention), tuple(before_mlp), resid)

    def _written(self, number: int) -> Float[Tensor, "pos d_model"]:
        """Give what the nodes write to a layer."""
        features = [layer.features for layer in self.layers]
        return self.layers[number].error + _features_write(self.replacement, number, features, self.embed)

    def head_outputs(self, number: int, resid: Float[Tensor, "pos d_model"]) -> Float[Tensor, "pos head d_head"]:
        """Give what the heads of a block make of what enters it, before their output projections."""
        block, layer = self.model.blocks[number], self.layers[number]
        x = frozen_norm(block.norm_attention, resid, layer.attention_scale)
        z, _ = attend(block.attention, x, None, torch.arange(self.n_pos, device=x.device), layer.pattern)
        return z

    def check(self) -> None:
        """Read back that the pieces held constant are those of the run, and that nodes and biases add up to it.

        Raises:
            NonFiniteError: they do not.
        """
        off = self.stream.difference(self.replay(nodes=True))
        if not off <= READ_BACK_TOLERANCE:
            raise NonFiniteError(
                f"the frozen model differs from the run by {off:.1e} of the residual stream",
                "run the model in float32; if it is, its weights are too large for sums of this length",
            )


def frozen_norm(
    norm: Norm, x: Float[Tensor, "pos d_model"], scale: Float[Tensor, "pos 1"]
) -> Float[Tensor, "pos d_model"]:
    """Apply a norm whose denominator is held constant: linear but for its bias."""
    centred = x - x.mean(-1, keepdim=True) if norm.kind == "layer" else x
    out = centred * scale * norm.gain
    return out if norm.bias is None else out + norm.bias


@torch.no_grad()
def freeze(
    model: LanguageModel, replacement: Replacement, tokens: Int[Tensor, " pos"], *, plain: int = 0
) -> FrozenPrompt:
    """Run a prompt once, and check that what is frozen explains the run.

    Args:
        model: its weights.
        replacement: its dictionaries.
        tokens: the prompt.
        plain: how many first positions have no features: all that MLPs write there is error. circuit-tracer leaves the
            first one out, where models park attention and dictionaries were not trained.

    Raises:
        InvalidInputError: the prompt is empty, too long, or holds a token that the model does not have.
        NonFiniteError: the run holds NaN or infinity, or what was frozen does not add up to it.
    """
    config, n_pos = model.config, len(tokens)
    if not 0 < n_pos <= config.n_positions:
        raise InvalidInputError(
            f"the prompt has {n_pos} tokens, the model reads 1 to {config.n_positions}",
            "give a shorter prompt" if n_pos else "give a prompt that is not empty",
        )
    if int(tokens.min()) < 0 or int(tokens.max()) >= config.vocab_size:
        raise InvalidInputError(
            f"the prompt holds a token outside 0 to {config.vocab_size - 1}", "use this model's tokenizer"
        )
    rotary, everywhere = model.rotary(n_pos), torch.arange(n_pos, device=tokens.device)
    embed = model.embed[tokens]
    resid = embed + model.position_part(n_pos)
    layers: list[FrozenLayer] = []
    before_attention: list[Tensor] = []
    before_mlp: list[Tensor] = []
    for number, block in enumerate(model.blocks):
        before_attention.append(resid)
        x = block.norm_attention(resid)
        z, pattern = attend(block.attention, x, rotary, everywhere)
        attended = resid + project_heads(block.attention, z)
        heard = model.mlp_reads(resid, attended)
        before_mlp.append(heard)
        mlp_in = block.norm_mlp(heard)
        out = block.mlp(mlp_in)
        resid = attended + out
        if not torch.isfinite(resid).all():
            raise NonFiniteError(f"layer {number} gives NaN or infinity on this prompt", "check the model's weights")
        bias, skip = replacement.bias(number), replacement.skip(number)
        written = out if bias is None else out - bias
        written = written if skip is None else written - mlp_in @ skip
        active = _active(replacement, number, mlp_in, plain)
        features = [*(layer.features for layer in layers), active]
        error = written - _features_write(replacement, number, features, embed)
        layers.append(
            FrozenLayer(
                block.norm_attention.scale(before_attention[-1]),
                pattern,
                mlp_in,
                block.norm_mlp.scale(heard),
                active,
                error,
                written,
            )
        )
    stream = Stream(tuple(before_attention), tuple(before_mlp), resid)
    frozen = FrozenPrompt(
        model,
        replacement,
        tokens,
        embed,
        tuple(layers),
        model.norm_final.scale(resid),
        stream,
    )
    frozen.check()
    return frozen


def _active(replacement: Replacement, layer: int, x: Float[Tensor, "pos d_model"], plain: int) -> ActiveFeatures:
    """Give the features of a layer that are active on what its MLP reads."""
    if not replacement.has(layer):
        none = x.new_zeros(0, dtype=torch.int64)
        return ActiveFeatures(none, none, x.new_zeros(0), x.new_zeros(0))
    dense = replacement.encode(layer, x)
    dense[:plain] = 0
    positions, ids = dense.nonzero(as_tuple=True)
    factor = replacement.encoder(layer).factor(x)
    values = dense[positions, ids]
    factors = torch.ones_like(values) if factor is None else factor[positions, ids]
    return ActiveFeatures(positions, ids, values, factors)


def _features_write(
    replacement: Replacement, number: int, features: Sequence[ActiveFeatures], like: Float[Tensor, "pos d_model"]
) -> Float[Tensor, "pos d_model"]:
    """Give what features write to a layer, each by itself; `features` are those of all layers up to it."""
    written = torch.zeros_like(like)
    for source, w_dec in replacement.writers(number).items():
        active = features[source]
        where, shape = torch.stack([active.positions, active.ids]), (len(like), len(w_dec))
        # They are in order and inside of the shape, as `nonzero` gave them.
        values = torch.sparse_coo_tensor(where, active.values, shape, is_coalesced=True, check_invariants=False)
        dense = len(active) * _DENSE > len(like) * len(w_dec)
        written += (values.to_dense() if dense else values) @ w_dec
    return written
