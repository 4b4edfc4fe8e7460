"""Prompts written as text: tokens with their roles, and the text of every token that occurs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from hagd.errors import InvalidInputError
from hagd.models.tokenizer import Tokenizer
from hagd.tasks.task import SPLITS, Layout, PromptBatch, Split, Task

BOS_ROLE = "bos"


@dataclass(frozen=True)
class TextPair:
    """One prompt pair as token ids. The answer is the token after the last position."""

    layout: Layout
    clean: tuple[int, ...]
    counterfactual: tuple[int, ...]
    answer: int
    foils: tuple[int, ...]
    group: str


def is_single_token(tokenizer: Tokenizer, text: str) -> bool:
    """Tell whether `text` continues a prompt as exactly one token."""
    return len(tokenizer.encode_continuation(text)) == 1


def last_position_layout(tokenizer: Tokenizer, roles: Sequence[str]) -> Layout:
    """Give the layout of a prompt answered at its end, with a role for the beginning-of-sequence token if any."""
    whole = (BOS_ROLE, *roles) if has_bos(tokenizer) else tuple(roles)
    return Layout(whole, (len(whole) - 1,))


def has_bos(tokenizer: Tokenizer) -> bool:
    """Tell whether prompts start with a beginning-of-sequence token."""
    return tokenizer.bos and tokenizer.bos_id is not None


def encode_aligned(tokenizer: Tokenizer, text: str, layout: Layout) -> tuple[int, ...]:
    """Encode a prompt of a template, every word and mark of which must be one token.

    Raises:
        InvalidInputError: the tokenizer splits the prompt differently, so that roles would not align.
    """
    tokens = tuple(tokenizer.encode(text))
    if len(tokens) != len(layout.roles):
        pieces = "|".join(tokenizer.text(token) for token in tokens)
        raise InvalidInputError(
            f"the prompt {text!r} is {len(tokens)} tokens ({pieces}), its template has {len(layout.roles)} roles",
            "this task needs a tokenizer that keeps common English words whole; write your own prompts as jsonl",
        )
    return tokens


def make_batches(pairs: Iterable[TextPair]) -> tuple[PromptBatch, ...]:
    """Group pairs of one split into batches of equal layout and number of foils, in order of first appearance."""
    buckets: dict[tuple[Layout, int], list[TextPair]] = {}
    for pair in pairs:
        buckets.setdefault((pair.layout, len(pair.foils)), []).append(pair)
    return tuple(
        PromptBatch(
            layout,
            torch.tensor([pair.clean for pair in bucket]),
            torch.tensor([pair.counterfactual for pair in bucket]),
            torch.tensor([[pair.answer] for pair in bucket]),
            torch.tensor([[pair.foils] for pair in bucket]),
            tuple(pair.group for pair in bucket),
        )
        for (layout, _), bucket in buckets.items()
    )


def make_text_task(
    name: str,
    pairs: Mapping[Split, Sequence[TextPair]],
    tokenizer: Tokenizer,
    *,
    judged: str = "vocabulary",
    minimum_accuracy: float,
) -> Task:
    """Assemble a task; its roles are those of all layouts in order of first appearance."""
    batches: dict[Split, tuple[PromptBatch, ...]] = {split: make_batches(pairs.get(split, ())) for split in SPLITS}
    everything = [pair for split in SPLITS for pair in pairs.get(split, ())]
    tokens = {token for pair in everything for token in (*pair.clean, *pair.counterfactual, pair.answer, *pair.foils)}
    roles = dict.fromkeys(role for pair in everything for role in pair.layout.roles)
    return Task(
        name=name,
        roles=tuple(roles),
        batches=batches,
        token_text={token: tokenizer.text(token) for token in sorted(tokens)},
        judged="choices" if judged == "choices" else "vocabulary",
        bos=has_bos(tokenizer),
        minimum_accuracy=minimum_accuracy,
    )
