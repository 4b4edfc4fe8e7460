"""What a local graph ends at: logits, differences of logits, or any direction behind the final norm."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hagd.attribution.frozen import FrozenPrompt
from hagd.errors import InvalidInputError
from hagd.graphs.local_graph import GraphTarget


@dataclass(frozen=True)
class Targets:
    """Directions at the last position, with their names and weights."""

    named: tuple[GraphTarget, ...]
    directions: Float[Tensor, "target d_model"]
    """Read behind the final norm; of logits, the unembedding less its mean over the vocabulary."""

    def __len__(self) -> int:
        return len(self.named)


@dataclass(frozen=True)
class LogitChoice:
    """Which logits: the likeliest ones that hold a share of the probability."""

    share: float = 0.95
    most: int = 10


def likeliest(frozen: FrozenPrompt, choice: LogitChoice, names: Sequence[str] | None = None) -> Targets:
    """Give the fewest likeliest next tokens that hold the share, at most `most`.

    Args:
        frozen: the prompt.
        choice: how many.
        names: what each token of the vocabulary is called; its number when None.

    Raises:
        InvalidInputError: the share or the number is out of range.
    """
    if not 0 < choice.share <= 1 or choice.most < 1:
        raise InvalidInputError(
            f"cannot take at most {choice.most} logits that hold {choice.share} of the probability",
            "give a share in (0, 1] and at least one logit",
        )
    probabilities = _probabilities(frozen)
    top, tokens = probabilities.topk(min(choice.most, len(probabilities)))
    count = min(len(top), int(torch.searchsorted(top.cumsum(0), choice.share)) + 1)
    return of_tokens(frozen, tokens[:count].tolist(), names)


def of_tokens(frozen: FrozenPrompt, tokens: Sequence[int], names: Sequence[str] | None = None) -> Targets:
    """Give the logits of some tokens, weighted by their probabilities.

    Raises:
        InvalidInputError: there is none, or one that is not of the vocabulary.
    """
    _check_tokens(frozen, tokens)
    probabilities = _probabilities(frozen)
    unembed = frozen.model.unembed
    directions = (unembed[:, list(tokens)] - unembed.mean(1, keepdim=True)).T
    named = tuple(
        GraphTarget(str(token) if names is None else names[token], float(probabilities[token]), token)
        for token in tokens
    )
    return Targets(named, directions)


def difference(frozen: FrozenPrompt, token: int, other: int, name: str) -> Targets:
    """Give the difference of two logits as one target.

    Raises:
        InvalidInputError: a token is not of the vocabulary.
    """
    if token == other:
        raise InvalidInputError("a logit less itself is nothing", "name another token to compare with")
    _check_tokens(frozen, [token, other])
    unembed = frozen.model.unembed
    return Targets((GraphTarget(name, 1.0),), (unembed[:, token] - unembed[:, other])[None])


def of_vector(frozen: FrozenPrompt, direction: Float[Tensor, " d_model"], name: str) -> Targets:
    """Give any direction as a target.

    Raises:
        InvalidInputError: it is zero, not finite, or of another width.
    """
    if direction.shape != (frozen.model.config.d_model,):
        raise InvalidInputError(
            f"the vector has shape {tuple(direction.shape)}, the model is {frozen.model.config.d_model} wide",
            "give one number per dimension of the residual stream",
        )
    if not torch.isfinite(direction).all() or not direction.any():
        raise InvalidInputError("the vector is zero or not finite", "give a direction")
    return Targets((GraphTarget(name, 1.0),), direction.to(frozen.embed)[None])


def together(parts: Sequence[Targets]) -> Targets:
    """Give several targets, or sets of them, as one."""
    return Targets(tuple(it for part in parts for it in part.named), torch.cat([part.directions for part in parts]))


def _probabilities(frozen: FrozenPrompt) -> Float[Tensor, " vocab"]:
    return frozen.model.logits(frozen.stream.final[-1]).float().softmax(-1)


def _check_tokens(frozen: FrozenPrompt, tokens: Sequence[int]) -> None:
    size = frozen.model.config.vocab_size
    if not tokens:
        raise InvalidInputError("there is no target", "name a token, or leave the choice to the likeliest ones")
    if len(set(tokens)) < len(tokens):
        raise InvalidInputError("a token is named twice", "name each target once")
    if wrong := [token for token in tokens if not 0 <= token < size]:
        raise InvalidInputError(f"there is no token {wrong[0]}", f"tokens go from 0 to {size - 1}")
