"""A sparse dictionary of one MLP: `MLP(x) = f(x) W_dec + b_dec [+ x W_skip] + e(x)`, with `f` sparse.

One class serves every per-layer kind. `transcoder` has a plain encoder, `gated` a product encoder for
SwiGLU MLPs, `neurons` is the MLP's own basis (exact, no sparsity enforced) and is the control that every
learned dictionary must beat. Inputs are the MLP's own input: the normalised residual, gain included.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hagd.models.language_model import ACTIVATIONS, Mlp
from hagd.models.precision import multiply

DictionaryKind = Literal["transcoder", "gated", "neurons"]
Ranking = Literal["contribution", "activation"]


@dataclass(frozen=True)
class Dictionary:
    """Encoder, decoder and optional skip path of one layer."""

    kind: DictionaryKind
    layer: int
    activation: str
    """Name in `ACTIVATIONS`, applied to the encoder (or to its gate, if there is one)."""
    k: int | None
    """Features kept per token, those that `ranked_by` puts first; None keeps all."""
    w_gate: Float[Tensor, "d_model d_feature"] | None
    b_gate: Float[Tensor, " d_feature"] | None
    w_enc: Float[Tensor, "d_model d_feature"]
    b_enc: Float[Tensor, " d_feature"]
    w_dec: Float[Tensor, "d_feature d_model"]
    b_dec: Float[Tensor, " d_model"]
    w_skip: Float[Tensor, "d_model d_model"] | None
    threshold: Float[Tensor, " d_feature"] | None = None
    """JumpReLU: an activation counts where its magnitude exceeds this, and is 0 elsewhere. Not together with `k`."""
    ranked_by: Ranking = "contribution"
    """What TopK compares: |activation| times decoder norm, or |activation| alone, as most other tools do. The second
    cannot be written as the first, which rescaling a feature against its decoder never changes."""

    @property
    def n_features(self) -> int:
        return self.w_dec.shape[0]

    def only(self, used: Int[Tensor, " kept"]) -> "Dictionary":
        """Give the dictionary of some features; meaningful where no TopK makes features compete."""
        return replace(
            self,
            w_gate=None if self.w_gate is None else self.w_gate[:, used],
            b_gate=None if self.b_gate is None else self.b_gate[used],
            w_enc=self.w_enc[:, used],
            b_enc=self.b_enc[used],
            w_dec=self.w_dec[used],
            threshold=None if self.threshold is None else self.threshold[used],
        )

    def pre_activations(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_feature"]:
        """Give the activations before TopK or thresholds."""
        act = ACTIVATIONS[self.activation]
        up = multiply(x, self.w_enc) + self.b_enc
        if self.w_gate is None:
            return act(up)
        gate = multiply(x, self.w_gate)
        return act(gate if self.b_gate is None else gate + self.b_gate) * up

    def encode(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_feature"]:
        """Give the sparse activations `f(x)`."""
        dense = self.pre_activations(x)
        if self.threshold is not None:
            dense = dense * (dense.abs() > self.threshold)
        if self.k is None:
            return dense
        norms = self.w_dec.norm(dim=-1)
        return keep_top(dense, norms if self.ranked_by == "contribution" else torch.ones_like(norms), self.k)

    def decode(
        self, features: Float[Tensor, "*batch d_feature"], x: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch d_model"]:
        """Give the dictionary's reconstruction of the MLP's output."""
        out = features @ self.w_dec + self.b_dec
        return out if self.w_skip is None else out + x @ self.w_skip


def keep_top(
    dense: Float[Tensor, "*batch d_feature"], norms: Float[Tensor, " d_feature"], k: int
) -> Float[Tensor, "*batch d_feature"]:
    """Zero all but the `k` entries of largest |activation| * decoder norm in each row."""
    if k >= dense.shape[-1]:
        return dense
    kept = (dense.detach().abs() * norms.detach()).topk(k, dim=-1).indices
    return torch.zeros_like(dense).scatter(-1, kept, dense.gather(-1, kept))


def neurons_of(mlp: Mlp, layer: int) -> Dictionary:
    """Give the MLP's own neurons as a dictionary whose error is exactly zero."""
    d_model, d_mlp = mlp.w_in.shape
    zeros = mlp.w_in.new_zeros
    return Dictionary(
        kind="neurons",
        layer=layer,
        activation=mlp.activation,
        k=None,
        w_gate=mlp.w_gate,
        b_gate=None,
        w_enc=mlp.w_in,
        b_enc=zeros(d_mlp) if mlp.b_in is None else mlp.b_in,
        w_dec=mlp.w_out,
        b_dec=zeros(d_model) if mlp.b_out is None else mlp.b_out,
        w_skip=None,
    )
