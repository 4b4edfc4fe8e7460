"""What a dictionary writes in place of its MLP, as one operation that autograd runs through, by hand and sparse.

Beside the gradients of the weights, as in `sparse_step`, there is that of what the dictionary reads: the loss lies
behind later layers. What each token keeps is constant, as it is everywhere else.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from hagd_transcoder.domain.group import WHOLE, Share
from hagd_transcoder.domain.sparse.selection import Selection
from hagd_transcoder.domain.sparse.step import Encoder, SparseCode, gradients_beside, rows_dot, sparse_code


def rebuild(
    weights: Mapping[str, Tensor], x: Float[Tensor, "token d_model"], encoder: Encoder, share: Share = WHOLE
) -> Float[Tensor, "token d_model"]:
    """Give what a dictionary writes; gradients flow to `x` and to those weights that require them.

    Args:
        weights: as of `sparse_step`.
        x: what the MLP reads.
        encoder: how features are activated and kept.
        share: what the tokens are of the update.
    """
    return _Rebuild.apply(x, encoder, share, tuple(weights), *weights.values())


class _Rebuild(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, encoder: Encoder, share: Share, names: tuple[str, ...], *tensors: Tensor
    ) -> Tensor:
        weights = {name: tensor.detach() for name, tensor in zip(names, tensors, strict=True)}
        code = sparse_code(weights, x.detach(), encoder, None, share)
        ctx.code, ctx.names = code, names
        written = code.decoded() + weights["b_dec"]
        return written + x @ weights["skip"] if "skip" in weights else written

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (upstream,) = grad_outputs
        code: SparseCode = ctx.code
        weights = code.weights
        gradients = code.gradients(upstream) | gradients_beside(weights, code.x, upstream)
        d_value = rows_dot(upstream, weights["dec"], code.selection)
        d_x = _rows_of_features(weights["enc"], code.selection, d_value * code.slope_enc)
        if code.slope_gate is not None:
            d_x += _rows_of_features(weights["gate"], code.selection, d_value * code.slope_gate)
        if "skip" in weights:
            d_x += upstream @ weights["skip"].T
        return d_x, None, None, None, *(gradients[name] for name in ctx.names)


def _rows_of_features(
    rows: Float[Tensor, "d_feature d_model"], chosen: Selection, amount: Float[Tensor, " kept"]
) -> Float[Tensor, "token d_model"]:
    """Sum, for each token, the rows of the features it keeps, by amount."""
    return functional.embedding_bag(chosen.feature, rows, chosen.offsets, mode="sum", per_sample_weights=amount)
