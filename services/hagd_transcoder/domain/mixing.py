"""Prompts of tasks among the text, so that dictionaries know what circuits are asked about.

A task has few prompts, so they are read many times: each once before any comes again. They are documents of their
own, and only trained on: what is measured is text, and the same with and without them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from hagd.corpora.corpus import Corpus
from hagd.errors import InvalidInputError
from hagd.tasks.splits import generator_for


def mixed(
    text: Corpus, prompts: Mapping[str, Sequence[Int[Tensor, " pos"]]], shares: Mapping[str, float], seed: int
) -> Corpus:
    """Add prompts until they are their share of the tokens that are trained on.

    Args:
        text: what they are added to.
        prompts: by task, without a token for the beginning of a sequence.
        shares: of all tokens to train on, by task; together below 1.
        seed: decides in which order prompts come.

    Raises:
        InvalidInputError: a share is so small that not one prompt comes of it.
    """
    lengths = text.offsets.diff()
    trained = int(lengths[~text.held_out].sum())
    whole = trained / (1 - sum(shares.values()))
    added: list[Tensor] = []
    for name in sorted(shares):
        drawn = _drawn(prompts[name], shares[name] * whole, seed, name)
        if not drawn:
            raise InvalidInputError(
                f"{shares[name]:g} of the tokens is not one prompt of {name}", "give more text or a larger share"
            )
        added += drawn
    if not added:
        return text
    ends = torch.tensor([len(it) for it in added]).cumsum(0) + text.offsets[-1]
    return replace(
        text,
        tokens=torch.cat([text.tokens, *added]),
        offsets=torch.cat([text.offsets, ends]),
        held_out=torch.cat([text.held_out, torch.zeros(len(added), dtype=torch.bool)]),
        n_prompts=len(added),
    )


def _drawn(prompts: Sequence[Tensor], tokens: float, seed: int, name: str) -> list[Tensor]:
    """Give prompts of so many tokens, to the nearest prompt, in an order drawn anew for each time through."""
    generator, chosen, held = generator_for(seed, "prompts", name), list[Tensor](), 0
    while True:
        for number in torch.randperm(len(prompts), generator=generator).tolist():
            if held + len(prompts[number]) / 2 > tokens:
                return chosen
            chosen.append(prompts[number])
            held += len(prompts[number])
