"""Gradient times activation in the model as it is: what the features and the error of each MLP add to the targets.

Nothing is frozen here. To first order the credit of an error is what the targets lose when the dictionary's
reconstruction takes the place of that MLP, at one position.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hagd.attribution.frozen import FrozenPrompt
from hagd.attribution.targets import Targets
from hagd.models.trunk import Passage, run_trunk


@dataclass(frozen=True)
class Credit:
    """In the unit of the targets. Features of one place count together, so that many do not outweigh their error."""

    features: Float[Tensor, "layer pos"]
    errors: Float[Tensor, "layer pos"]

    def error_share(self, first: int = 0) -> Float[Tensor, " layer"]:
        """Give, by layer, the part of errors in the absolute credit of all positions from `first` on; 0 without any."""
        errors, features = self.errors[:, first:].abs().sum(1), self.features[:, first:].abs().sum(1)
        return errors / (errors + features).clamp_min(torch.finfo(errors.dtype).tiny)


def assign_credit(frozen: FrozenPrompt, targets: Targets) -> Credit:
    """Give the credit for the sum of the targets, each by its weight."""
    model, weights = frozen.model, [target.weight for target in targets.named]
    direction = targets.directions.new_tensor(weights) @ targets.directions
    with torch.enable_grad():
        nudges = frozen.embed.new_zeros(len(model.blocks), *frozen.embed.shape).requires_grad_()

        def visit(layer: int, passage: Passage) -> Tensor:
            return passage.out + nudges[layer]

        resid = run_trunk(model, frozen.tokens[None], visit)
        value = model.norm_final(resid[0, -1]) @ direction
    (gradient,) = torch.autograd.grad(value, nudges)
    errors = torch.stack([layer.error for layer in frozen.layers])
    features = torch.stack([layer.written for layer in frozen.layers]) - errors
    return Credit((gradient * features).sum(-1), (gradient * errors).sum(-1))
