"""Which nodes run live: one number per node of the universe, 1 in the circuit and 0 outside.

Boolean circuits use exactly 0 and 1; gradients with respect to the gates (attribution, search) use anything
between. Every field may carry extra leading axes (several circuits at once) that broadcast over prompts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hagd.interventions.activations import Subject


@dataclass(frozen=True)
class Gates:
    """Gates at the positions of one layout, or at the roles of a task (then `pos` means `role`).

    What all circuits share needs no `circuit` axes of its own: fields broadcast against one another.
    """

    tokens: Float[Tensor, "*#circuit pos"]
    heads: Float[Tensor, "*#circuit layer pos head"]
    mlps: Float[Tensor, "*#circuit layer pos"]
    """Whole blocks. A live block overrides the gates of its own features, error and skip path."""
    features: Mapping[int, Float[Tensor, "*#circuit pos d_feature"]]
    errors: Float[Tensor, "*#circuit layer pos"]
    skips: Float[Tensor, "*#circuit layer pos"]
    refined: Bool[Tensor, "layer pos"]
    """Where the MLP is resolved into features; elsewhere it is a block."""

    @staticmethod
    def full(subject: Subject, n_pos: int, value: float, refined: Bool[Tensor, "layer pos"] | None = None) -> "Gates":
        """Give the same gate to every node; by default every layer with a dictionary is refined."""
        config, device = subject.model.config, subject.model.device
        if refined is None:
            refined = torch.zeros(config.n_layers, n_pos, dtype=torch.bool, device=device)
            refined[list(subject.dictionaries)] = True

        def constant(*shape: int) -> Tensor:
            return torch.full(shape, value, device=device)

        return Gates(
            tokens=constant(n_pos),
            heads=constant(config.n_layers, n_pos, config.n_heads),
            mlps=constant(config.n_layers, n_pos) * ~refined,
            features={
                layer: constant(n_pos, dictionary.n_features) * refined[layer, :, None]
                for layer, dictionary in subject.dictionaries.items()
            },
            errors=constant(config.n_layers, n_pos) * refined,
            skips=constant(config.n_layers, n_pos) * refined,
            refined=refined,
        )

    def map(self, transform: Callable[[Tensor], Tensor]) -> "Gates":
        """Apply one function to every gate tensor (not to `refined`)."""
        return replace(
            self,
            tokens=transform(self.tokens),
            heads=transform(self.heads),
            mlps=transform(self.mlps),
            features={layer: transform(value) for layer, value in self.features.items()},
            errors=transform(self.errors),
            skips=transform(self.skips),
        )

    def tensors(self) -> list[Tensor]:
        """List the gate tensors in a fixed order."""
        ordered = [self.features[layer] for layer in sorted(self.features)]
        return [self.tokens, self.heads, self.mlps, self.errors, self.skips, *ordered]
