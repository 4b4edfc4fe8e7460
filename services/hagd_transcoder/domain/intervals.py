"""Intervals from drawing whole documents again, because tokens and windows of one document resemble each other."""

from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hagd.tasks.splits import generator_for

DRAWS: Final = 1_000


def drawn_ratios(
    above: Float[Tensor, " window"],
    below: Float[Tensor, " window"],
    documents: Int[Tensor, " window"],
    seed: int,
) -> Float[Tensor, " draw"]:
    """Give the ratio of two sums over windows for each draw of documents: the same draws for whatever is measured on
    the same documents, so that ratios of one draw may be averaged and compared."""
    names, of_window = documents.unique(return_inverse=True)
    pairs = torch.zeros(len(names), 2, dtype=torch.float64)
    pairs.index_add_(0, of_window, torch.stack([above, below], dim=1).double().cpu())
    drawn = torch.randint(len(names), (DRAWS, len(names)), generator=generator_for(seed, "documents"))
    sums = pairs[drawn].sum(1)
    return sums[:, 0] / sums[:, 1].clamp_min(1e-300)


def interval(draws: Float[Tensor, " draw"]) -> list[float]:
    """Give the bounds that hold 95 % of the draws."""
    ordered = draws.sort().values
    return [float(ordered[round(share * (len(ordered) - 1))]) for share in (0.025, 0.975)]
