"""A corpus: the tokens of many documents one after the other, and the windows in which a model reads them.

A window never crosses a document, so nothing is read in the context of something unrelated. Windows of one batch are
filled up at their end, which a causal model does not notice. Whole documents are held out, never parts of one: text
repeats itself within a document, and what is measured on a known document flatters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from hagd.errors import InvalidInputError

Split = Literal["train", "held-out"]
SHORTEST_WINDOW: Final = 8
"""Tokens; the rest of a document below that is left out."""


@dataclass(frozen=True)
class Corpus:
    """Documents as token ids."""

    tokens: Int[Tensor, " token"]
    """int32, without tokens for the beginning of a sequence."""
    offsets: Int[Tensor, " boundary"]
    """Where each document begins, and where the last one ends."""
    held_out: Bool[Tensor, " document"]
    """Which documents are only measured on."""
    context: int
    """Tokens of the longest window, the one for the beginning of a sequence among them."""
    bos_id: int | None
    """What every window begins with, or None."""
    vocabulary: tuple[str, ...] = ()
    """What each token is called, for readers; may be empty."""
    n_prompts: int = 0
    """How many documents, the last ones, are prompts of tasks: whole, however short."""
    device: str = "cpu"
    """Where batches are put, for who reads them; the corpus itself stays on the CPU."""

    @property
    def n_documents(self) -> int:
        return len(self.held_out)

    def windows(self, split: Split) -> "Windows":
        """Cut the documents of a split.

        Raises:
            InvalidInputError: there is no window of `SHORTEST_WINDOW` tokens.
        """
        most = self.context - (self.bos_id is not None)
        starts, kept = list[Tensor](), list[Tensor]()
        for document in (self.held_out == (split == "held-out")).nonzero()[:, 0].tolist():
            begin, end = int(self.offsets[document]), int(self.offsets[document + 1])
            at = torch.arange(begin, end, most)
            starts.append(torch.stack([at, (at + most).clamp_max(end)], dim=1))
            is_prompt = document >= self.n_documents - self.n_prompts
            kept.append((starts[-1].diff(dim=1)[:, 0] >= SHORTEST_WINDOW) | is_prompt)
        bounds = torch.cat(starts)[torch.cat(kept)] if starts else torch.empty(0, 2, dtype=torch.int64)
        if not len(bounds):
            raise InvalidInputError(
                f"the corpus has no {split} document of {SHORTEST_WINDOW} tokens or more", "give more or longer text"
            )
        return Windows(self, bounds)


@dataclass(frozen=True)
class Windows:
    """The windows of a split."""

    corpus: Corpus
    bounds: Int[Tensor, "window 2"]
    """Where each begins and ends among the tokens."""

    def __len__(self) -> int:
        return len(self.bounds)

    def documents(self) -> Int[Tensor, " window"]:
        """Give the document that each is of."""
        return torch.searchsorted(self.corpus.offsets, self.bounds[:, 0].contiguous(), right=True) - 1

    def batch(self, numbers: Sequence[int] | Int[Tensor, " batch"]) -> "Batch":
        """Give some windows side by side."""
        chosen = self.bounds[torch.as_tensor(numbers)]
        lengths = chosen[:, 1] - chosen[:, 0]
        shift = int(self.corpus.bos_id is not None)
        place = torch.arange(int(lengths.max()) + shift) - shift
        inside = place < lengths[:, None]
        read = (chosen[:, :1] + place).clamp(0, len(self.corpus.tokens) - 1)
        tokens = torch.where(inside, self.corpus.tokens[read].long(), 0)
        if self.corpus.bos_id is not None:
            tokens[:, 0] = self.corpus.bos_id
        counted = inside.clone()
        counted[:, 0] = False
        return Batch(tokens.to(self.corpus.device), counted.to(self.corpus.device))


@dataclass(frozen=True)
class Batch:
    """Windows as a model reads them."""

    tokens: Int[Tensor, "batch pos"]
    counted: Bool[Tensor, "batch pos"]
    """Where activations count: not at position 0, whose are unlike all others, and not behind the end of a window."""
