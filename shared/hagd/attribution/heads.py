"""Which heads an edge runs through.

Every path between two positions passes a head. Splitting an edge by the last head on its paths, the one nearest the
target, counts each path once: what the heads carry and what stays in the residual stream add up to the edge.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hagd.attribution.descent import Descent
from hagd.attribution.reading import Readers
from hagd.attribution.standing import Standing


@dataclass(frozen=True)
class HeadLoadings:
    """Edges by the last head that they run through."""

    by_head: Float[Tensor, "layer head row column"]
    direct: Float[Tensor, "row column"]
    """What reaches the target without any head, from its own position."""


@torch.no_grad()
def head_loadings(descent: Descent, readers: Readers, n_heads: int) -> HeadLoadings:
    """Split the edges into some targets, over the columns of `descent`."""
    rows, columns = len(readers), descent.columns
    standing = Standing(readers.positions, columns)
    by_head = readers.vectors.new_zeros(columns.n_layers, n_heads, rows, len(columns))
    direct = readers.vectors.new_zeros(rows, len(columns))
    points = readers.vectors
    layer, between = readers.site
    for number in reversed(range(layer + between)):
        heard = points
        if number < layer:
            descent.meet_points(points, standing, number, direct)
            points = descent.past_mlp(points, standing, number)
            heard = heard if descent.parallel else points
        for head in range(n_heads):
            descent.run_head(heard, standing, number, head, by_head[number, head])
    descent.meet_points(points, standing, None, direct)
    return HeadLoadings(by_head, direct)
