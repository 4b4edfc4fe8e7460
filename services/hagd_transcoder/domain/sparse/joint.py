"""The step of a cross-layer transcoder: the features of a layer help to write what it and all later MLPs write.

Each layer has its own encoder and one decoder row a feature. Untied, a row holds a block for every layer that it writes
to, side by side, so that a code is decoded for all of them at once; tied, it is one block that all of them get.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hagd_transcoder.domain.group import WHOLE, Share
from hagd_transcoder.domain.sparse.step import Code, StepResult, Weights, gradients_beside


def joint_steps(
    codes: Sequence[Code],
    weights: Sequence[Weights],
    x: Sequence[Float[Tensor, "token d_model"]],
    out: Sequence[Float[Tensor, "token d_model"]],
    variance: float,
    *,
    tied: bool,
    share: Share = WHOLE,
) -> list[StepResult]:
    """Give loss and gradients of every layer, in order, for the sum of the errors of all layers.

    Args:
        codes: what the features of each layer are, by `weights`.
        weights: of each layer; bias and skip path belong to what the layer writes.
        x: what each MLP reads.
        out: what each writes.
        variance: what squared errors are measured in.
        tied: whether a decoder row is one block for all layers.
        share: what these tokens are of the update.

    Returns:
        By layer: the loss of what this layer writes, the gradients of its weights by the losses of all, and as `error`
        what its features might still write: the errors of all layers from this one on, side by side, or their mean
        where decoders are tied.
    """
    errors = [there - own["b_dec"] for there, own in zip(out, weights, strict=True)]
    for error, own, read in zip(errors, weights, x, strict=True):
        if "skip" in own:
            error -= read @ own["skip"]
    for source, code in enumerate(codes):
        decoded = code.decoded()
        parts = [decoded] * (len(codes) - source) if tied else decoded.tensor_split(len(codes) - source, dim=1)
        for error, part in zip(errors[source:], parts, strict=True):
            error -= part
    n_tokens = share.total(len(errors[0]))
    upstream = [error * (-2.0 / variance / n_tokens) for error in errors]
    found: list[StepResult] = []
    for layer, (code, own, read) in enumerate(zip(codes, weights, x, strict=True)):
        if tied:
            above, left = torch.stack(upstream[layer:]).sum(0), torch.stack(errors[layer:]).mean(0)
        else:
            above, left = torch.cat(upstream[layer:], dim=1), torch.cat(errors[layer:], dim=1)
        gradients = code.gradients(above) | gradients_beside(own, read, upstream[layer])
        loss = float(errors[layer].square().sum()) / n_tokens / variance
        found.append(StepResult(loss, gradients, left, code.fired(), code.weakest))
    return found
