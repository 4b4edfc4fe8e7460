"""The training data: what every MLP reads and writes on the prompts of D_discover, from one shared forward.

All layers are trained from the same run of the model. Where the activations of all prompts fit in memory they are
recorded once; otherwise each training step runs its own prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor

from hagd.interventions.activations import Activations, Subject, record
from hagd.models.language_model import LanguageModel
from hagd.tasks.task import Layout, PromptBatch

CACHE_BYTES = 1 << 30


@dataclass(frozen=True)
class Sample:
    """Some prompts of one layout with their activations in the plain run."""

    prompts: PromptBatch
    activations: Activations


@dataclass
class Discovery:
    """Draws prompts, a layout at a time, in proportion to how many prompts it has."""

    model: LanguageModel
    batches: Sequence[PromptBatch]
    cache_bytes: int = CACHE_BYTES
    _recorded: list[Activations] = field(default_factory=list[Activations], init=False)

    def __post_init__(self) -> None:
        if sum(len(batch) * self._bytes_of(batch.layout) for batch in self.batches) <= self.cache_bytes:
            self._recorded = [self._record(batch) for batch in self.batches]

    def draw(self, count: int, generator: torch.Generator) -> Sample:
        """Draw up to `count` prompts of one layout, with replacement."""
        sizes = torch.tensor([float(len(batch)) for batch in self.batches])
        number = int(torch.multinomial(sizes, 1, generator=generator))
        index = torch.randint(len(self.batches[number]), (count,), generator=generator)
        return self.take(number, index)

    def first(self, count: int) -> Sample:
        """Give the first `count` prompts of the largest layout: enough to set scales by."""
        number = max(range(len(self.batches)), key=lambda i: len(self.batches[i]))
        return self.take(number, torch.arange(min(count, len(self.batches[number]))))

    def take(self, number: int, index: Tensor) -> Sample:
        """Give some prompts of one batch."""
        prompts = self.batches[number].take(index)
        activations = self._recorded[number].take(index) if self._recorded else self._record(prompts)
        return Sample(prompts, activations)

    def _record(self, prompts: PromptBatch) -> Activations:
        return record(Subject(self.model), prompts.clean, prompts.layout.answer_positions, keep_mlp_in=True)

    def _bytes_of(self, layout: Layout) -> int:
        """Estimate what the activations of one prompt take."""
        config = self.model.config
        per_token = config.d_model * (1 + 2 * config.n_layers) + config.n_layers * config.n_heads * config.d_head
        return 4 * (per_token * len(layout.roles) + config.vocab_size * len(layout.answer_positions))


def causal_positions(layout: Layout, layer: int, n_layers: int) -> Int[Tensor, " pos"]:
    """Give the positions where the MLP of `layer` can reach a judged logit.

    In the last layer those are the answer positions; below, all positions up to the last answer.
    """
    if layer == n_layers - 1:
        return torch.tensor(sorted(set(layout.answer_positions)))
    return torch.arange(max(layout.answer_positions) + 1)


def other_positions(layout: Layout, layer: int, n_layers: int) -> Int[Tensor, " pos"]:
    """Give the positions that `causal_positions` leaves out."""
    causal = set(causal_positions(layout, layer, n_layers).tolist())
    return torch.tensor([i for i in range(len(layout.roles)) if i not in causal], dtype=torch.int64)
