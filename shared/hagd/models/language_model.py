"""A decoder-only transformer as a frozen tree of weights, with heads told apart.

Every supported architecture is converted to this one form (`architectures.py`), so that attribution and
intervention are written once. Nothing here knows Hugging Face; equality with the original is checked when
a model is converted. Axis vocabulary: batch pos layer d_model d_mlp head kv_head d_head vocab.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "gelu_new": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": functional.silu,
}


@dataclass(frozen=True)
class RotaryScaling:
    """How Llama from 3.1 on stretches slow rotations, so that more positions fit than it was first trained on."""

    factor: float
    """What rotations are slowed by that turn less than `low` times over those positions."""
    low: float
    high: float
    """Rotations that turn more often than this over them stay; between the two the change is gradual."""
    original_positions: float

    def slow(self, frequency: Float[Tensor, " pair"]) -> Float[Tensor, " pair"]:
        """Give the frequencies, in radians per position, that take the place of others."""
        turns = frequency * self.original_positions / (2 * math.pi)
        kept = ((turns - self.low) / (self.high - self.low)).clamp(0, 1)
        return frequency * (kept + (1 - kept) / self.factor)


@dataclass(frozen=True)
class ModelConfig:
    """Shapes and constants that the weights alone do not tell."""

    architecture: str
    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_mlp: int
    vocab_size: int
    n_positions: int
    activation: str
    norm: Literal["layer", "rms"]
    norm_eps: float
    rotary_base: float | None
    """None where positions are learned embeddings."""
    rotary_dims: int | None = None
    """How many leading dims of each head turn with the position, an even number; None for all of them."""
    parallel_residual: bool = False
    """Attention and MLP of a block read the same residual, the one that enters it; neither reads the other."""
    rotary_scaling: RotaryScaling | None = None

    @property
    def group_size(self) -> int:
        """Query heads that read one key/value head."""
        return self.n_heads // self.n_kv_heads


@dataclass(frozen=True)
class Norm:
    """LayerNorm or RMSNorm with its gain (and bias) applied after the division."""

    kind: Literal["layer", "rms"]
    gain: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"] | None
    eps: float

    def __call__(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        if self.kind == "layer":
            return functional.layer_norm(x, x.shape[-1:], self.gain, self.bias, self.eps)
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.gain

    def scale(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch 1"]:
        """Give 1 / denominator, the factor that the frozen-linear view holds constant."""
        centred = x - x.mean(-1, keepdim=True) if self.kind == "layer" else x
        return torch.rsqrt(centred.square().mean(-1, keepdim=True) + self.eps)

    def pull_back(
        self, direction: Float[Tensor, "*batch d_model"], scale: Float[Tensor, "*#batch 1"]
    ) -> Float[Tensor, "*batch d_model"]:
        """Give the gradient at the norm's input of `direction · norm(x)`, the denominator frozen."""
        pulled = direction * self.gain * scale
        return pulled - pulled.mean(-1, keepdim=True) if self.kind == "layer" else pulled


@dataclass(frozen=True)
class Attention:
    """Per-head projections; key/value heads are shared by groups of query heads and never expanded."""

    w_q: Float[Tensor, "head d_model d_head"]
    w_k: Float[Tensor, "kv_head d_model d_head"]
    w_v: Float[Tensor, "kv_head d_model d_head"]
    w_o: Float[Tensor, "head d_head d_model"]
    b_q: Float[Tensor, "head d_head"] | None
    b_k: Float[Tensor, "kv_head d_head"] | None
    b_v: Float[Tensor, "kv_head d_head"] | None
    b_o: Float[Tensor, " d_model"] | None


@dataclass(frozen=True)
class Mlp:
    """`w_out · act(w_in x + b_in) + b_out`, or with `w_gate`: `w_out · (act(w_gate x) * w_in x) + b_out`."""

    activation: str
    w_gate: Float[Tensor, "d_model d_mlp"] | None
    w_in: Float[Tensor, "d_model d_mlp"]
    b_in: Float[Tensor, " d_mlp"] | None
    w_out: Float[Tensor, "d_mlp d_model"]
    b_out: Float[Tensor, " d_model"] | None

    def neurons(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_mlp"]:
        """Give the activations that `w_out` reads."""
        act = ACTIVATIONS[self.activation]
        up = x @ self.w_in if self.b_in is None else x @ self.w_in + self.b_in
        return act(up) if self.w_gate is None else act(x @ self.w_gate) * up

    def __call__(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        out = self.neurons(x) @ self.w_out
        return out if self.b_out is None else out + self.b_out


@dataclass(frozen=True)
class Block:
    norm_attention: Norm
    attention: Attention
    norm_mlp: Norm
    mlp: Mlp


@dataclass(frozen=True)
class LanguageModel:
    """A causal transformer. `logits = norm_final(resid) @ unembed`."""

    config: ModelConfig
    embed: Float[Tensor, "vocab d_model"]
    pos_embed: Float[Tensor, "n_positions d_model"] | None
    blocks: tuple[Block, ...]
    norm_final: Norm
    unembed: Float[Tensor, "d_model vocab"]

    @property
    def dtype(self) -> torch.dtype:
        return self.embed.dtype

    @property
    def device(self) -> torch.device:
        return self.embed.device

    def position_part(self, n_pos: int) -> Float[Tensor, "pos d_model"] | float:
        """Give what positions add to the first residual; it belongs to no node and is never replaced."""
        return 0.0 if self.pos_embed is None else self.pos_embed[:n_pos]

    def rotary(self, n_pos: int) -> "Rotary | None":
        """Give the rotation tables of the first `n_pos` positions, or None without rotary embeddings."""
        config = self.config
        if config.rotary_base is None:
            return None
        dims = config.d_head if config.rotary_dims is None else config.rotary_dims
        return Rotary.build(n_pos, config.d_head, dims, config.rotary_base, self.device, config.rotary_scaling)

    def mlp_reads(
        self, entering: Float[Tensor, "*#batch d_model"], attended: Float[Tensor, "*#batch d_model"]
    ) -> Float[Tensor, "*#batch d_model"]:
        """Choose the residual that the MLP of a block reads: the one entering it, or with what its heads wrote."""
        return entering if self.config.parallel_residual else attended

    def logits(self, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch vocab"]:
        return self.norm_final(resid) @ self.unembed


@dataclass(frozen=True)
class Rotary:
    """Rotary position tables in the half-split layout of Llama and GPT-NeoX: of the dims that turn, one of each pair
    lies in the first half. Dims that stand still turn by an angle of zero, so that one product serves a whole head."""

    cos: Float[Tensor, "pos d_head"]
    sin: Float[Tensor, "pos d_head"]
    dims: int
    """How many leading dims turn."""

    @staticmethod
    def build(
        n_pos: int, d_head: int, dims: int, base: float, device: torch.device, scaling: RotaryScaling | None = None
    ) -> "Rotary":
        frequency = base ** (-torch.arange(0, dims, 2, device=device, dtype=torch.float32) / dims)
        if scaling is not None:
            frequency = scaling.slow(frequency)
        angle = torch.arange(n_pos, device=device, dtype=torch.float32)[:, None] * frequency
        angle = torch.cat([angle, angle, angle.new_zeros(n_pos, d_head - dims)], dim=-1)
        return Rotary(angle.cos(), angle.sin(), dims)

    def rotate(
        self, x: Float[Tensor, "*batch pos d_head"], positions: slice | Int[Tensor, " pos"] = slice(None)
    ) -> Float[Tensor, "*batch pos d_head"]:
        """Rotate the last axis of `x`, whose second-last axis holds `positions`."""
        return x * self.cos[positions] + self._half_turn(x) * self.sin[positions]

    def rotate_back(
        self, x: Float[Tensor, "*batch pos d_head"], positions: slice | Int[Tensor, " pos"] = slice(None)
    ) -> Float[Tensor, "*batch pos d_head"]:
        """Apply the transpose of `rotate`; used to pull gradients back through the rotation."""
        return x * self.cos[positions] - self._half_turn(x) * self.sin[positions]

    def _half_turn(self, x: Float[Tensor, "*batch pos d_head"]) -> Float[Tensor, "*batch pos d_head"]:
        half = self.dims // 2
        first, second, still = x.split([half, half, x.shape[-1] - self.dims], dim=-1)
        return torch.cat([-second, first, still], dim=-1)
