"""The best affine map from what an MLP reads to what it writes, from sums: what a dictionary must beat.

Sums are kept in float64, so tokens may come in as many batches as they like and are never held together.
"""

from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

RIDGE: Final = 1e-6
"""Penalty as a share of the mean variance of the inputs; keeps collinear inputs solvable."""


@dataclass
class LeastSquares:
    """Sums over tokens."""

    gram: Float[Tensor, "d_in d_in"]
    cross: Float[Tensor, "d_in d_out"]
    sum_in: Float[Tensor, " d_in"]
    sum_out: Float[Tensor, " d_out"]
    count: int = 0

    @staticmethod
    def empty(d_in: int, d_out: int, device: torch.device | str = "cpu") -> "LeastSquares":
        """Start without tokens, on the device where they will come from."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        return LeastSquares(zeros(d_in, d_in), zeros(d_in, d_out), zeros(d_in), zeros(d_out))

    def add(self, x: Float[Tensor, "token d_in"], out: Float[Tensor, "token d_out"]) -> None:
        """Take in tokens."""
        inputs, outputs = x.double(), out.double()
        self.gram += inputs.T @ inputs
        self.cross += inputs.T @ outputs
        self.sum_in += inputs.sum(0)
        self.sum_out += outputs.sum(0)
        self.count += len(x)

    def solve(self) -> tuple[Float[Tensor, "d_in d_out"], Float[Tensor, " d_out"]]:
        """Give W and b of `x W + b`, in float64."""
        mean_in, mean_out = self.sum_in / self.count, self.sum_out / self.count
        gram = self.gram - self.count * torch.outer(mean_in, mean_in)
        cross = self.cross - self.count * torch.outer(mean_in, mean_out)
        scale = gram.diagonal().mean().clamp_min(torch.finfo(torch.float64).tiny)
        weight = torch.linalg.solve(gram + RIDGE * scale * torch.eye(len(gram)).to(gram), cross)
        return weight, mean_out - mean_in @ weight
