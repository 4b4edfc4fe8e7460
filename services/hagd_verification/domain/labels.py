"""Short names for nodes, read off what they write: periodic in a number, or towards some tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

_FEWEST_NUMBERS = 8
_CLEAR_SHARE = 0.6
"""Share of power at one frequency from which an effect counts as periodic."""
_NAMED = 3


def label_of(
    kind: str,
    effect: Float[Tensor, " known"],
    tokens: Int[Tensor, " known"],
    text: Mapping[int, str],
    examples: Sequence[Mapping[str, Any]],
) -> str:
    """Name a node by its effect on the logits; a head that has none by where it looks."""
    if (found := periodicity(effect, tokens, text)) is not None:
        frequency, share = found
        return f"frequency {frequency} of the answer ({share:.0%})"
    best = effect.topk(min(_NAMED, len(effect))).indices.tolist()
    promoted = ", ".join(text[int(tokens[i])].strip() or repr(text[int(tokens[i])]) for i in best)
    if kind == "head" and examples:
        example = examples[0]
        looked = max(range(len(example["activations"])), key=lambda i: example["activations"][i])
        return f"looks at {example['tokens'][looked].strip()!r}, promotes {promoted}"
    return f"promotes {promoted}"


def periodicity(
    effect: Float[Tensor, " known"], tokens: Int[Tensor, " known"], text: Mapping[int, str]
) -> tuple[int, float] | None:
    """Give the frequency that carries most of an effect's power over the number tokens 0 .. p - 1, with its share.

    None when the tokens are no such numbers, or no frequency stands out.
    """
    place = {text[int(token)].strip(): i for i, token in enumerate(tokens.tolist())}
    count = 0
    while str(count) in place:
        count += 1
    if count < _FEWEST_NUMBERS or count < len(tokens) - 2:
        return None
    numbers = effect[[place[str(value)] for value in range(count)]]
    power = torch.fft.rfft(numbers - numbers.mean()).abs().square()[1:]
    total = float(power.sum())
    best = int(power.argmax())
    share = float(power[best]) / total if total > 0 else 0.0
    return (best + 1, share) if share >= _CLEAR_SHARE else None
