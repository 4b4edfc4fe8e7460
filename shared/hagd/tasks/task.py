"""A behaviour: pairs of prompts with roles, in four disjoint splits, and how an answer is judged.

Every token of a prompt has a role, and a role names one position per prompt. Prompts with the same sequence of
roles share a `Layout`; they are batched together without padding, and donors come from the same layout and split.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Int
from torch import Tensor

Split = Literal["discover", "select", "verify", "ood"]
SPLITS: tuple[Split, ...] = ("discover", "select", "verify", "ood")


@dataclass(frozen=True)
class Layout:
    """The role of each position, and the positions whose logits are judged (they predict the next token)."""

    roles: tuple[str, ...]
    answer_positions: tuple[int, ...]


@dataclass(frozen=True)
class PromptBatch:
    """Prompts of one layout and split, as token ids."""

    layout: Layout
    clean: Int[Tensor, "batch pos"]
    counterfactual: Int[Tensor, "batch pos"]
    answers: Int[Tensor, "batch answer"]
    foils: Int[Tensor, "batch answer foil"]
    groups: tuple[str, ...]
    """Group id of each prompt (template, subject, twin): the unit of the bootstrap and of the split."""

    def __len__(self) -> int:
        return self.clean.shape[0]

    def take(self, index: Int[Tensor, " kept"]) -> "PromptBatch":
        """Select prompts."""
        return PromptBatch(
            self.layout,
            self.clean[index],
            self.counterfactual[index],
            self.answers[index],
            self.foils[index],
            tuple(self.groups[i] for i in index.tolist()),
        )


@dataclass(frozen=True)
class Task:
    """Prompt pairs by split, with what a reader needs to see tokens as text."""

    name: str
    roles: tuple[str, ...]
    """All roles of all layouts, in reading order: the role axis of circuits and graphs."""
    batches: Mapping[Split, tuple[PromptBatch, ...]]
    token_text: Mapping[int, str]
    """Text of every token id that occurs."""
    judged: Literal["vocabulary", "choices"]
    """Agreement is argmax over the whole vocabulary, or over the answer and its foils."""
    bos: bool
    """Whether prompts start with a beginning-of-sequence token."""
    minimum_accuracy: float
    """The model must reach this share of right answers on held-out prompts, or there is nothing to explain."""

    def size(self, split: Split) -> int:
        """Count the prompts of a split."""
        return sum(len(batch) for batch in self.batches.get(split, ()))
