"""Why a head attends: its score at one query and key, split into products of what was written at both.

A score is bilinear in the query and the key, each of which is a sum over nodes and biases. Taking the rows of every
coordinate of both gives the contribution of every pair of nodes, exactly under the frozen patterns and denominators of
earlier layers and of the norm that the head reads through.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hagd.attribution.descent import Descent
from hagd.attribution.frozen import FrozenPrompt
from hagd.attribution.standing import Site
from hagd.errors import InvalidInputError


@dataclass(frozen=True)
class ScoreAttribution:
    """One attention score before the softmax, in units of the softmax's argument.

    The parts of query and key are columns; the last two are active features without a column, and biases.
    """

    queries: Float[Tensor, "d_head part"]
    keys: Float[Tensor, "d_head part"]
    scale: float

    @property
    def score(self) -> float:
        """Give the score: the sum of all pairs."""
        return float(self.queries.sum(1) @ self.keys.sum(1)) * self.scale

    @property
    def pairs(self) -> Float[Tensor, "query_side key_side"]:
        """Give the contribution of every pair of parts, which takes memory for all of them."""
        return self.queries.T @ self.keys * self.scale

    def strongest(self, most: int) -> list[tuple[int, int, float]]:
        """Give (part of the query, part of the key, contribution) of the strongest pairs, strongest first."""
        found: list[tuple[int, int, float]] = []
        for block in torch.arange(self.queries.shape[1]).split(_TOGETHER):
            part = self.queries[:, block].T @ self.keys * self.scale
            best = part.flatten().abs().topk(min(most, part.numel())).indices
            places = [divmod(at, part.shape[1]) for at in best.tolist()]
            found += [(int(block[row]), column, float(part[row, column])) for row, column in places]
        return sorted(found, key=lambda pair: -abs(pair[2]))[:most]


_TOGETHER = 256


@torch.no_grad()
def attribute_score(
    frozen: FrozenPrompt, descent: Descent, layer: int, head: int, query: int, key: int
) -> ScoreAttribution:
    """Split the score of a head, which looks from position `query` to `key`.

    Raises:
        InvalidInputError: there is no such layer, head or position, or the key comes after the query.
    """
    config = frozen.model.config
    if not (0 <= layer < config.n_layers and 0 <= head < config.n_heads):
        raise InvalidInputError(
            f"there is no head {layer}.{head}",
            f"layers go from 0 to {config.n_layers - 1}, heads from 0 to {config.n_heads - 1}",
        )
    if not 0 <= key <= query < frozen.n_pos:
        raise InvalidInputError(
            f"no head looks from position {query} to {key}", f"0 <= key <= query <= {frozen.n_pos - 1}"
        )
    attention = frozen.model.blocks[layer].attention
    shared = head // config.group_size
    queries = _side(frozen, descent, layer, query, attention.w_q[head], _at(attention.b_q, head))
    keys = _side(frozen, descent, layer, key, attention.w_k[shared], _at(attention.b_k, shared))
    return ScoreAttribution(queries, keys, config.d_head**-0.5)


def _at(bias: Float[Tensor, "head d_head"] | None, head: int) -> Float[Tensor, " d_head"] | None:
    return None if bias is None else bias[head]


def _side(
    frozen: FrozenPrompt,
    descent: Descent,
    layer: int,
    pos: int,
    weights: Float[Tensor, "d_model d_head"],
    bias: Float[Tensor, " d_head"] | None,
) -> Float[Tensor, "d_head part"]:
    """Give every coordinate of a query or key, turned to its position: by column, of other features, of biases."""
    norm, state = frozen.model.blocks[layer].norm_attention, frozen.layers[layer]
    directions, own = weights.T, weights.new_zeros(weights.shape[1]) if bias is None else bias
    if norm.bias is not None:
        own = own + directions @ norm.bias
    rotary = frozen.model.rotary(frozen.n_pos)
    if rotary is not None:
        # A coordinate after the turn reads a mix of coordinates before it.
        here = torch.full((directions.shape[1],), pos, device=weights.device)
        directions = rotary.rotate(directions.T, here).T
        own = rotary.rotate(own[None], here[:1])[0]
    vectors = norm.pull_back(directions, state.attention_scale[pos])
    silent = frozen.replay(nodes=False).before_attention[layer][pos]
    edges = vectors.new_zeros(len(vectors), len(descent.columns))
    positions = torch.full((len(vectors),), pos, device=weights.device)
    descent.run(vectors, positions, Site(layer, between=False), edges)
    others = vectors @ (frozen.stream.before_attention[layer][pos] - silent) - edges.sum(1)
    return torch.cat([edges, others[:, None], (vectors @ silent + own)[:, None]], dim=1)
