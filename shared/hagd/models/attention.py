"""One attention layer on plain weights, heads kept apart: the form that recording and intervening both run.

Unusual: queries may be asked for at some positions only, key/value heads are never expanded to the query heads
that share them, and a given pattern takes the place of the softmax.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from hagd.models.language_model import Attention, Rotary


def attention_inputs(
    attention: Attention, x: Float[Tensor, "*batch pos d_model"]
) -> tuple[Float[Tensor, "*batch kv_head pos d_head"], Float[Tensor, "*batch kv_head pos d_head"]]:
    """Give keys (not rotated) and values of every key/value head."""
    keys = torch.einsum("...pd,hdk->...hpk", x, attention.w_k)
    values = torch.einsum("...pd,hdk->...hpk", x, attention.w_v)
    if attention.b_k is not None:
        keys = keys + attention.b_k[:, None]
    if attention.b_v is not None:
        values = values + attention.b_v[:, None]
    return keys, values


def attend(
    attention: Attention,
    x: Float[Tensor, "*batch pos d_model"],
    rotary: Rotary | None,
    queries_at: Int[Tensor, " query"],
    pattern: Float[Tensor, "*shared head query pos"] | None = None,
) -> tuple[Float[Tensor, "*batch query head d_head"], Float[Tensor, "*shared head query pos"]]:
    """Run one attention layer for the queries at `queries_at`; `pattern` replaces the softmax if given.

    Result: head outputs before `w_o`, and the attention probabilities.
    """
    n_heads, _, d_head = attention.w_q.shape
    keys, values = attention_inputs(attention, x)
    n_kv, n_pos = keys.shape[-3:-1]
    group = n_heads // n_kv
    if pattern is None:
        queries = torch.einsum("...pd,hdk->...hpk", x[..., queries_at, :], attention.w_q)
        if attention.b_q is not None:
            queries = queries + attention.b_q[:, None]
        if rotary is not None:
            queries = rotary.rotate(queries, queries_at)
            keys = rotary.rotate(keys, slice(0, n_pos))
        grouped = queries.unflatten(-3, (n_kv, group))
        scores = torch.einsum("...gqk,...pk->...gqp", grouped, keys) * d_head**-0.5
        future = torch.arange(n_pos, device=x.device)[None, :] > queries_at[:, None]
        grouped_pattern = functional.softmax(scores.masked_fill(future, float("-inf")), dim=-1)
        pattern = grouped_pattern.flatten(-4, -3)
    else:
        grouped_pattern = pattern.unflatten(-3, (n_kv, group))
    mixed = torch.einsum("...gqp,...pk->...gqk", grouped_pattern, values)
    return mixed.flatten(-4, -3).transpose(-3, -2), pattern


def write_heads(
    attention: Attention, heads: Float[Tensor, "*batch query head d_head"]
) -> Float[Tensor, "*batch query d_model"]:
    """Sum head outputs, or changes of them, through `w_o` alone."""
    return heads.flatten(-2) @ attention.w_o.flatten(0, 1)


def project_heads(
    attention: Attention, heads: Float[Tensor, "*batch query head d_head"]
) -> Float[Tensor, "*batch query d_model"]:
    """Sum head outputs through `w_o`; the output bias belongs to no node and is added here."""
    out = write_heads(attention, heads)
    return out if attention.b_o is None else out + attention.b_o
