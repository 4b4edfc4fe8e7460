"""The first two blocks on the way down, where targets still read single positions behind the heads.

What a head carries from one position to all before it is one vector times a pattern. What the heads of the block below
make of that is again one vector, for each pair of heads, times the product of two patterns. So nothing is taken for
every position that only differs by a weight: both blocks cost a product over heads, or pairs of heads, for each
position, in place of one over coordinates and one over positions.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from hagd.attribution.blocks import Block
from hagd.attribution.standing import Standing
from hagd.models.precision import multiply


def read_behind(
    block: Block, points: Float[Tensor, "row d_model"], head: int | None = None
) -> Float[Tensor, "kv_head group row d_head"]:
    """Give what vectors read behind each head of a block, or behind one of them alone; as products take it."""
    z = multiply(points.to(block.w_o.dtype), block.w_o)
    z = z.unflatten(1, (*block.pattern.shape[:2], -1)).permute(1, 2, 0, 3)
    if head is None:
        return z
    only = torch.zeros_like(z)
    only.flatten(0, 1)[head] = z.flatten(0, 1)[head]
    return only


def patterns_at(block: Block, rows: Standing) -> Float[Tensor, "place kv_head group pos"]:
    """Give the patterns of a block's heads at each position where targets stand."""
    at = torch.tensor([pos for pos, _, _ in rows.groups], device=block.pattern.device)
    return block.pattern[:, :, at, : rows.n_pos].permute(2, 0, 1, 3)


def through_two(
    upper: Block,
    lower: Block,
    between: Float[Tensor, "kv_width width"],
    z: Float[Tensor, "kv_head group row d_head"],
    rows: Standing,
) -> tuple[Float[Tensor, "place kv_head way pos"], Float[Tensor, "kv_head way row d_head"]]:
    """Give patterns and vectors of every way through a head of a block and one of the block below it.

    Args:
        upper: the block.
        lower: the one below it.
        between: what the heads of the lower one read, in the span of the values of the upper one.
        z: what is read behind the heads of the upper one, by `read_behind`.
        rows: where targets stand.
    """
    n_kv, group = lower.pattern.shape[:2]
    read = z.flatten(1, 2) @ between.unflatten(0, (len(z), -1))
    ways = read.unflatten(1, z.shape[1:3]).unflatten(3, (n_kv, group, -1)).permute(3, 0, 1, 4, 2, 5).flatten(1, 3)
    at = patterns_at(upper, rows)
    first, n_pos = at.flatten(0, 2), rows.n_pos
    seen = [first @ pattern[:n_pos, :n_pos] for pattern in lower.pattern.flatten(0, 1)]
    patterns = torch.stack(seen).unflatten(1, at.shape[:3]).unflatten(0, (n_kv, group))
    return patterns.permute(2, 0, 3, 4, 1, 5).flatten(2, 4), ways


def spread(
    patterns: Float[Tensor, "place kv_head way pos"],
    vectors: Float[Tensor, "kv_head way row d_head"],
    rows: Standing,
    place: Float[Tensor, "pos row kv_width"],
) -> None:
    """Write, to a place, the sum over all ways of a vector times its pattern at the position of its row."""
    n_kv, _, _, d_head = vectors.shape
    by_head, flat = place.unflatten(2, (n_kv, d_head)), vectors.flatten(2)
    for pattern, (_, first, last) in zip(patterns, rows.groups, strict=True):
        part = torch.bmm(pattern.transpose(1, 2), flat[:, :, first * d_head : last * d_head])
        by_head[:, first:last] = part.view(n_kv, -1, last - first, d_head).permute(1, 2, 0, 3)
