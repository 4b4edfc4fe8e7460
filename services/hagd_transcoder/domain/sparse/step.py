"""Loss and gradients of one dictionary on one batch, by hand and sparse.

The one dense product is that of the encoder, which finds out what each token keeps; it may be taken in bfloat16,
because what is kept is computed again in full precision. All else runs over kept activations: decoding and the
gradients of the weights are sums of rows (`embedding_bag`), those of the activations are dot products of rows. Weights
lie in rows, one per feature. With N tokens, F features and width d the encoder costs 2NdF operations and the rest
about 10Nkd: the lower bound of a step is that product.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from hagd.models.language_model import ACTIVATIONS
from hagd_transcoder.domain.group import WHOLE, Share
from hagd_transcoder.domain.sparse.selection import Rule, Selection, select

Weights = Mapping[str, Tensor]
"""`enc` (d_feature d_model); `dec` (d_feature d_out), where d_out is d_model but for decoders that write to several
layers; `b_enc` (d_feature); `b_dec` (d_model); for gated kinds `gate`, `b_gate` like `enc`, `b_enc`; with a skip path
`skip` (d_model d_model), applied as `x @ skip`."""


@dataclass(frozen=True)
class StepResult:
    """What a batch says of a dictionary."""

    loss: float
    """Weighted squared error of the tokens in units of the variance given."""
    gradients: dict[str, Tensor]
    """By name of the weights."""
    error: Float[Tensor, "token d_out"]
    """Output minus reconstruction."""
    fired: Int[Tensor, " d_feature"]
    """Tokens on which each feature was active."""
    weakest: float
    """The smallest score that was kept."""


@dataclass(frozen=True)
class Encoder:
    """How activations come about."""

    activation: str
    """Name in `ACTIVATIONS`."""
    k: int
    rule: Rule = "topk"
    half: bool = False
    """Whether the dense product is taken in bfloat16."""


@runtime_checkable
class Code(Protocol):
    """What a batch keeps, between the encoder and the loss."""

    @property
    def weakest(self) -> float:
        """Give the smallest score that was kept."""
        ...

    def decoded(self) -> Float[Tensor, "token d_out"]:
        """Give what the decoder makes of it."""
        ...

    def fired(self) -> Int[Tensor, " d_feature"]:
        """Count the tokens on which each feature is active."""
        ...

    def gradients(self, upstream: Float[Tensor, "token d_out"]) -> dict[str, Tensor]:
        """Give the gradients of encoder and decoder from that of what is decoded."""
        ...


@dataclass(frozen=True)
class SparseCode:
    """A code as lists, with what their gradients need."""

    weights: Weights
    x: Float[Tensor, "token d_model"]
    selection: Selection
    value: Float[Tensor, " kept"]
    """A leaf that `written` hangs on."""
    written: Float[Tensor, "token d_out"]
    slope_enc: Float[Tensor, " kept"]
    """Derivative of the value by the encoder's pre-activation."""
    slope_gate: Float[Tensor, " kept"] | None
    weakest: float

    def decoded(self) -> Float[Tensor, "token d_out"]:
        return self.written.detach()

    def fired(self) -> Int[Tensor, " d_feature"]:
        return torch.bincount(self.selection.feature[self.value != 0], minlength=len(self.weights["dec"]))

    def gradients(self, upstream: Float[Tensor, "token d_out"]) -> dict[str, Tensor]:
        weights, chosen = self.weights, self.selection
        (d_value,) = torch.autograd.grad(self.written, self.value, upstream, retain_graph=True)
        by_feature = chosen.by_feature(len(weights["dec"]))

        def gather(rows: Tensor, amount: Tensor) -> Tensor:
            return functional.embedding_bag(
                by_feature.token, rows, by_feature.offsets, mode="sum", per_sample_weights=amount[by_feature.order]
            )

        def total(amount: Tensor) -> Tensor:
            return torch.zeros_like(weights["b_enc"]).index_add_(0, chosen.feature, amount)

        d_enc = d_value * self.slope_enc
        found = {"dec": gather(upstream, self.value.detach()), "enc": gather(self.x, d_enc), "b_enc": total(d_enc)}
        if self.slope_gate is not None:
            d_gate = d_value * self.slope_gate
            found |= {"gate": gather(self.x, d_gate), "b_gate": total(d_gate)}
        return found


def sparse_step(
    weights: Weights,
    x: Float[Tensor, "token d_model"],
    out: Float[Tensor, "token d_out"],
    encoder: Encoder,
    variance: float,
    importance: Float[Tensor, " token"] | None = None,
    favour: Float[Tensor, " d_feature"] | None = None,
) -> StepResult:
    """Give loss and gradients.

    Args:
        weights: those of the dictionary.
        x: what the MLP reads.
        out: what it writes, as wide as the rows of decoders.
        encoder: how features are activated and kept.
        variance: what squared errors are measured in.
        importance: weight of each token in the loss; the mean over tokens when None.
        favour: factor of each feature's score where features compete to be kept, and nowhere else; 1 when None.
    """
    return step_of(sparse_code(weights, x, encoder, favour), weights, x, out, variance, importance)


def step_of(
    code: Code,
    weights: Weights,
    x: Float[Tensor, "token d_model"],
    out: Float[Tensor, "token d_out"],
    variance: float,
    importance: Float[Tensor, " token"] | None = None,
) -> StepResult:
    """Give loss and gradients of the dictionary that a code is of; arguments as of `sparse_step`."""
    if importance is None:
        importance = x.new_full((len(x),), 1.0 / len(x))
    error = out - code.decoded() - weights["b_dec"]
    if "skip" in weights:
        error -= x @ weights["skip"]
    upstream = error * (importance * (-2.0 / variance))[:, None]
    gradients = code.gradients(upstream) | gradients_beside(weights, x, upstream)
    loss = float(error.square().sum(1) @ importance) / variance
    return StepResult(loss, gradients, error, code.fired(), code.weakest)


def gradients_beside(
    weights: Weights, x: Float[Tensor, "token d_model"], upstream: Float[Tensor, "token d_out"]
) -> dict[str, Tensor]:
    """Give the gradients of what is written beside the features: bias and skip path."""
    found = {"b_dec": upstream.sum(0)}
    return found | ({"skip": x.T @ upstream} if "skip" in weights else {})


def summed(results: Sequence[StepResult], share: Share) -> list[StepResult]:
    """Give what an update says as a whole, from what this member's share of it does; `error` stays that of the share.

    Gradients and counts become those of the whole in place.
    """
    # The losses, and the smallest scores, for which every member has a place of its own.
    told = torch.zeros(len(results), 1 + share.group.size, dtype=torch.float64)
    for row, result in zip(told, results, strict=True):
        row[0], row[1 + share.group.rank] = result.loss, result.weakest
    gradients = [it for result in results for it in result.gradients.values()]
    share.group.sum_([*gradients, *(result.fired for result in results), told])
    return [
        replace(result, loss=float(row[0]), weakest=float(row[1:].min()))
        for result, row in zip(results, told, strict=True)
    ]


def sparse_code(
    weights: Weights,
    x: Float[Tensor, "token d_model"],
    encoder: Encoder,
    favour: Float[Tensor, " d_feature"] | None,
    share: Share = WHOLE,
) -> SparseCode:
    """Give what each token keeps: the largest |activation| times decoder norm, times what favours the feature."""
    act, norms = ACTIVATIONS[encoder.activation], weights["dec"].norm(dim=1)
    norms = norms if favour is None else norms * favour
    dense = product(x, weights["enc"], weights["b_enc"], half=encoder.half)
    if "gate" in weights:
        gate = product(x, weights["gate"], weights["b_gate"], half=encoder.half)
        scores = act(gate).mul_(dense).abs_().mul_(norms.to(dense.dtype))
    elif encoder.activation == "relu":
        # What lies below zero is never larger than what lies above it.
        scores = dense.mul_(norms.to(dense.dtype))
    else:
        scores = act(dense).abs_().mul_(norms.to(dense.dtype))
    chosen = select(scores, encoder.k, encoder.rule, share)
    won = scores[chosen.token, chosen.feature]
    weakest = smallest(won if favour is None else won / favour[chosen.feature])
    up = rows_dot(x, weights["enc"], chosen) + weights["b_enc"][chosen.feature]
    if "gate" in weights:
        gated, slope = with_slope(act, rows_dot(x, weights["gate"], chosen) + weights["b_gate"][chosen.feature])
        value, slope_enc, slope_gate = gated * up, gated, slope * up
    else:
        value, slope_enc = with_slope(act, up)
        slope_gate = None
    with torch.enable_grad():
        value = value.detach().requires_grad_()
        written = functional.embedding_bag(
            chosen.feature, weights["dec"], chosen.offsets, mode="sum", per_sample_weights=value
        )
    return SparseCode(weights, x, chosen, value, written, slope_enc, slope_gate, weakest)


def smallest(scores: Float[Tensor, " kept"]) -> float:
    """Give the smallest score; infinity where a member of a group keeps nothing."""
    return float(scores.min()) if len(scores) else math.inf


def product(
    x: Float[Tensor, "token d_model"],
    rows: Float[Tensor, "d_feature d_model"],
    bias: Float[Tensor, " d_feature"],
    *,
    half: bool,
) -> Float[Tensor, "token d_feature"]:
    """Give `x rows^T + bias`, taken and given in bfloat16 where that is asked for."""
    if half:
        return functional.linear(x.bfloat16(), rows.bfloat16(), bias.bfloat16())
    return functional.linear(x, rows, bias)


def rows_dot(
    x: Float[Tensor, "token d_model"], rows: Float[Tensor, "d_feature d_model"], chosen: Selection
) -> Float[Tensor, " kept"]:
    """Give `x[token] . rows[feature]` for every kept entry, without a copy of either row.

    This is how `embedding_bag` differentiates by its weights per sample.
    """
    with torch.enable_grad():
        ones = torch.ones(len(chosen.feature), dtype=rows.dtype, device=rows.device, requires_grad=True)
        bag = functional.embedding_bag(chosen.feature, rows, chosen.offsets, mode="sum", per_sample_weights=ones)
    return torch.autograd.grad(bag, ones, x)[0]


def with_slope(
    act: Callable[[Tensor], Tensor], pre: Float[Tensor, "*kept"]
) -> tuple[Float[Tensor, "*kept"], Float[Tensor, "*kept"]]:
    """Give `act(pre)` and its derivative."""
    with torch.enable_grad():
        pre = pre.detach().requires_grad_()
        value = act(pre)
        (slope,) = torch.autograd.grad(value.sum(), pre)
    return value.detach(), slope
