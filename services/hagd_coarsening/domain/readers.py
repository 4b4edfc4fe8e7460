"""How nodes read the residual stream: the gradient of a target's scalar where it reads, everything else frozen.

Along direct residual paths the gradient at a write site equals the gradient at the read site of the same
position, so one vector per (target, position read) serves every source. Norm denominators are frozen, but for
places on a path (`path.py`), where they are live.

* logit: the metric m. It reads the final norm at the answer positions.
* feature: its pre-activation (product encoders: the up path times the frozen gate), 0 where it is inactive.
* head: z · g, where g is the gradient of m at the head's output z. It reads values through the frozen pattern
  (OV) and, through the softmax, keys and queries (QK, first order); a read vector is the sum of both.
* MLP block: the MLP's output times g, to first order. Skip path: its output times g, exact.

Tokens and errors are sources only: nothing flows into an error, by convention.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hagd.dictionaries.dictionary import Dictionary
from hagd.models.attention import attention_inputs
from hagd.models.language_model import ACTIVATIONS, LanguageModel, Norm
from hagd_coarsening.domain.trace import Trace


def read_logit(model: LanguageModel, trace: Trace) -> dict[int, Float[Tensor, "batch 1 d_model"]]:
    """Give the metric's read vector at each answer position."""
    reads: dict[int, Tensor] = {}
    for slot, pos in enumerate(trace.layout.answer_positions):
        scale = trace.final_scale[:, pos]
        read = model.norm_final.pull_back(trace.metric_direction[:, slot], scale)
        if trace.stream is not None:
            read = live(model.norm_final, read, trace.stream.final[:, pos], scale)
        read = read[:, None]
        reads[pos] = reads[pos] + read if pos in reads else read
    return reads


def read_block(model: LanguageModel, trace: Trace, layer: int) -> Float[Tensor, "batch pos d_model"]:
    """Give the read vectors of a whole MLP, one per position: its transposed Jacobian applied to g."""
    block = model.blocks[layer]
    x = trace.clean.mlp_in[layer] if trace.stream is None else block.norm_mlp(trace.stream.before_mlp[layer])
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (pulled,) = torch.autograd.grad(block.mlp(x), x, trace.gradients.mlps[layer])
    return _before_mlp(model, trace, layer, pulled)


def read_skip(
    model: LanguageModel, trace: Trace, layer: int, w_skip: Float[Tensor, "d_model d_model"]
) -> Float[Tensor, "batch pos d_model"]:
    """Give the read vectors of a skip path, one per position."""
    return _before_mlp(model, trace, layer, trace.gradients.mlps[layer] @ w_skip.T)


def _before_mlp(
    model: LanguageModel, trace: Trace, layer: int, read: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, "batch pos d_model"]:
    norm, scale = model.blocks[layer].norm_mlp, trace.mlp_scale[layer]
    pulled = norm.pull_back(read, scale)
    return pulled if trace.stream is None else live(norm, pulled, trace.stream.before_mlp[layer], scale)


def live(
    norm: Norm,
    pulled: Float[Tensor, "*batch d_model"],
    resid: Float[Tensor, "*#batch d_model"],
    scale: Float[Tensor, "*#batch 1"],
) -> Float[Tensor, "*batch d_model"]:
    """Give the gradient through a norm whose denominator moves, from that with the denominator held.

    `d(1/s)/dx = -x s^-3 / d_model`, x centred for LayerNorm, so what goes along x is taken away.
    """
    x = resid - resid.mean(-1, keepdim=True) if norm.kind == "layer" else resid
    return pulled - x * (x * pulled).sum(-1, keepdim=True) * scale**2 / x.shape[-1]


@dataclass(frozen=True)
class FeatureReads:
    """Read vectors of features as a fixed direction times a factor per prompt; their product is never formed."""

    directions: Float[Tensor, "feature d_model"]
    factors: Float[Tensor, "batch pos feature"]
    """Gate (1 without one) / norm denominator where the feature is active, else 0."""

    def at(self, pos: int, wanted: Int[Tensor, " target"]) -> Float[Tensor, "batch target d_model"]:
        """Form the read vectors of some features at one position after all."""
        return self.factors[:, pos, wanted, None] * self.directions[wanted]


def read_features(model: LanguageModel, trace: Trace, dictionary: Dictionary) -> FeatureReads:
    """Give the read vectors of all features of one layer."""
    layer = dictionary.layer
    norm = model.blocks[layer].norm_mlp
    factors = trace.mlp_scale[layer] * (trace.clean.features[layer] != 0)
    if dictionary.w_gate is not None:
        gate = trace.clean.mlp_in[layer] @ dictionary.w_gate
        factors = factors * ACTIVATIONS[dictionary.activation](
            gate if dictionary.b_gate is None else gate + dictionary.b_gate
        )
    ones = dictionary.w_enc.new_ones(dictionary.n_features, 1)
    return FeatureReads(norm.pull_back(dictionary.w_enc.T, ones), factors)


class HeadReads:
    """Read vectors of the heads of one layer. Shared factors are computed once, then one position at a time."""

    def __init__(self, model: LanguageModel, trace: Trace, layer: int) -> None:
        attention = model.blocks[layer].attention
        self._attention = attention
        self._norm: Norm = model.blocks[layer].norm_attention
        self._scale = trace.attention_scale[layer]
        self._resid = None if trace.stream is None else trace.stream.before_attention[layer]
        x = trace.attention_in[layer]
        n_pos = x.shape[1]
        self._rotary = model.rotary(n_pos)
        group = model.config.group_size
        self._kv_head = torch.arange(model.config.n_heads, device=x.device) // group
        keys, values = attention_inputs(attention, x)
        queries = torch.einsum("bpd,hdk->bhpk", x, attention.w_q)
        if attention.b_q is not None:
            queries = queries + attention.b_q[:, None]
        if self._rotary is not None:
            queries, keys = self._rotary.rotate(queries), self._rotary.rotate(keys)
        self._queries = queries
        self._keys: Float[Tensor, "batch head pos d_head"] = keys[:, self._kv_head]
        gradient = trace.gradients.heads[layer]
        self._pattern = trace.clean.patterns[layer]
        value_gain = torch.einsum("bhpk,bqhk->bhqp", values[:, self._kv_head], gradient)
        expected = (self._pattern * value_gain).sum(-1, keepdim=True)
        d_head = attention.w_q.shape[-1]
        self._score_gradient = self._pattern * (value_gain - expected) * d_head**-0.5
        self._value_read = torch.einsum("hdk,bqhk->bhqd", attention.w_v[self._kv_head], gradient)

    def at(self, pos: int) -> Float[Tensor, "batch query head d_model"]:
        """Give the read vectors at position `pos` of the heads whose query is at `pos` or later."""
        read = self._pattern[:, :, pos:, pos, None] * self._value_read[:, :, pos:]
        turned = self._queries[:, :, pos:]
        if self._rotary is not None:
            turned = self._rotary.rotate_back(turned, torch.full((turned.shape[2],), pos, device=turned.device))
        key_read = torch.einsum("bhqk,hdk->bhqd", turned, self._attention.w_k[self._kv_head])
        read = read + self._score_gradient[:, :, pos:, pos, None] * key_read
        read = torch.cat([read[:, :, :1] + self._query_read(pos)[:, :, None], read[:, :, 1:]], dim=2)
        scale = self._scale[:, None, pos, None]
        pulled = self._norm.pull_back(read, scale)
        if self._resid is not None:
            pulled = live(self._norm, pulled, self._resid[:, None, pos, None], scale)
        return pulled.transpose(1, 2)

    def _query_read(self, pos: int) -> Float[Tensor, "batch head d_model"]:
        mixed = torch.einsum("bhp,bhpk->bhk", self._score_gradient[:, :, pos], self._keys)
        if self._rotary is not None:
            mixed = self._rotary.rotate_back(mixed[..., None, :], slice(pos, pos + 1))[..., 0, :]
        return torch.einsum("bhk,hdk->bhd", mixed, self._attention.w_q)
