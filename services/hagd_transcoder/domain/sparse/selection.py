"""Which features a token keeps, as lists: of every kept activation its token and its feature.

Everything after the encoder works on these lists, whose length is tokens times k, and never on tokens times features.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hagd_transcoder.domain.group import WHOLE, Share

Rule = Literal["topk", "batch-topk"]
_CANDIDATES = 4
"""BatchTopK looks at this many times k features of a token; who would keep more keeps those."""


@dataclass(frozen=True)
class Selection:
    """Kept activations, ordered by token."""

    feature: Int[Tensor, " kept"]
    token: Int[Tensor, " kept"]
    offsets: Int[Tensor, " token"]
    """Where the entries of each token begin."""

    def by_feature(self, n_features: int) -> "ByFeature":
        """Give the same entries ordered by feature."""
        order = torch.argsort(self.feature, stable=True)
        counts = torch.bincount(self.feature, minlength=n_features)
        return ByFeature(order, self.token[order], counts.cumsum(0) - counts)


@dataclass(frozen=True)
class ByFeature:
    """Kept activations, ordered by feature."""

    order: Int[Tensor, " kept"]
    """Their places in the order by token."""
    token: Int[Tensor, " kept"]
    offsets: Int[Tensor, " d_feature"]


def select(scores: Float[Tensor, "token d_feature"], k: int, rule: Rule, share: Share = WHOLE) -> Selection:
    """Choose by largest score: `k` features of every token, or as many over the whole update.

    Args:
        scores: how strongly each feature would write; an entry that is not positive may be chosen and counts like one
            that is.
        k: features per token, on average where the rule is `batch-topk`.
        rule: who competes with whom.
        share: what the tokens are of the update.
    """
    n_tokens, n_features = scores.shape
    k = min(k, n_features)
    if rule == "topk":
        chosen = scores.topk(k, dim=1, sorted=False).indices
        token = torch.arange(n_tokens, device=scores.device).repeat_interleave(k)
        return Selection(chosen.flatten(), token, torch.arange(0, n_tokens * k, k, device=scores.device))
    values, chosen = scores.topk(min(_CANDIDATES * k, n_features), dim=1, sorted=False)
    kept, competing = torch.zeros_like(values, dtype=torch.bool).flatten(), values.flatten()
    count = share.group.largest(competing, k * share.total(n_tokens))
    kept[competing.topk(count, sorted=False).indices] = True
    kept = kept.view_as(values)
    counts = kept.sum(1)
    token = torch.arange(n_tokens, device=scores.device).repeat_interleave(counts)
    return Selection(chosen[kept], token, counts.cumsum(0) - counts)
