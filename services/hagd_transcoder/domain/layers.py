"""Layers while they learn from runs of the model: what training asks of them, and those that learn apart.

A layer that learns apart takes its step as the run passes it, so no activations are kept. The tokens of a run are
shuffled and divided into some updates, because neighbours in a text say much the same.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hagd.corpora.corpus import Batch
from hagd.dictionaries.cross_layer import Dictionaries
from hagd.dictionaries.dictionary import Dictionary
from hagd.errors import NonFiniteError
from hagd.models.language_model import LanguageModel
from hagd.models.trunk import Passage, run_trunk
from hagd.tasks.splits import generator_for
from hagd_transcoder.domain.corpus_plan import CorpusPlan
from hagd_transcoder.domain.group import ALONE, Group, Share
from hagd_transcoder.domain.recording import StepMeasures
from hagd_transcoder.domain.schedules import annealed, is_balanced, learning_rate
from hagd_transcoder.domain.sparse.step import Encoder, StepResult
from hagd_transcoder.domain.sparse.trainer import SparseTrainer
from hagd_transcoder.domain.starting import starting_dictionary, variance_of


@runtime_checkable
class Layers(Protocol):
    """Dictionaries that learn from one run of the model after the other."""

    @property
    def trainers(self) -> Mapping[int, SparseTrainer]:
        """Give the state of each layer."""
        ...

    def step(self, model: LanguageModel, batch: Batch, plan: CorpusPlan, step: int) -> Mapping[int, StepMeasures]:
        """Learn from one run of the model; give what it says of each layer.

        Every member of a group is given the whole batch, and runs the model on its own part.

        Raises:
            NonFiniteError: an activation or a loss is NaN or infinite.
            WorkerDiedError: a member of the group is gone.
        """
        ...

    def finished(self) -> Dictionaries:
        """Give what has been learned."""
        ...


class Update(NamedTuple):
    """One update of the weights."""

    tokens: Int[Tensor, " token"]
    """Places of its tokens among those of this member's run."""
    n_tokens: int
    """Of all members."""
    learning_rate: float
    k: int
    balanced: bool
    """Whether rare features are favoured."""


class Reading(NamedTuple):
    """What one member of a group reads of a batch: some of its windows."""

    own: Batch
    first: int
    """Place of its first token among those of the batch that count."""
    n_tokens: int
    """Tokens of the batch that count."""


def reading_of(batch: Batch, group: Group) -> Reading:
    """Divide the windows of a batch among the members, as evenly as they go."""
    tokens, counted = batch.tokens.tensor_split(group.size), batch.counted.tensor_split(group.size)
    own = Batch(tokens[group.rank], counted[group.rank])
    return Reading(own, sum(int(it.sum()) for it in counted[: group.rank]), int(batch.counted.sum()))


def updates_of(plan: CorpusPlan, step: int, reading: Reading) -> Iterator[Update]:
    """Divide the tokens of a step into updates, the same ones for every group: a member takes those that it has."""
    generator, total = generator_for(plan.seed, "tokens", step), plan.steps * plan.updates
    order, n_own = torch.randperm(reading.n_tokens, generator=generator), int(reading.own.counted.sum())
    for number, tokens in enumerate(order.tensor_split(plan.updates)):
        at = step * plan.updates + number
        places = tokens - reading.first
        yield Update(
            places[(places >= 0) & (places < n_own)],
            len(tokens),
            learning_rate(at, total, plan.learning_rate),
            annealed(at, total, plan.k_start, plan.k),
            is_balanced(at, total),
        )


@dataclass
class Sums:
    """What the updates of a step say of one layer, together."""

    loss: float = 0.0
    active: float = 0.0

    def add(self, result: StepResult, plan: CorpusPlan, n_tokens: int) -> None:
        """Take in a whole update of a step that reads so many tokens."""
        self.loss += result.loss / plan.updates
        self.active += int(result.fired.sum()) / n_tokens

    def measures(self, trainer: SparseTrainer) -> StepMeasures:
        """Give what is recorded of the step."""
        return StepMeasures(self.loss, self.active, trainer.dead_share())


@dataclass(frozen=True)
class LayersApart:
    """One dictionary per layer, each with a loss of its own."""

    trainers: Mapping[int, SparseTrainer]
    group: Group = ALONE

    @staticmethod
    def start(model: LanguageModel, batch: Batch, plan: CorpusPlan, group: Group = ALONE) -> "LayersApart":
        """Begin where the plan says; the batch sets scales and ranks neurons."""
        trainers: dict[int, SparseTrainer] = {}
        encoder = Encoder(plan.start.activation, plan.k, plan.rule, half=plan.half)

        def visit(layer: int, passage: Passage) -> None:
            if layer not in plan.layers:
                return
            mlp, generator = model.blocks[layer].mlp, generator_for(plan.seed, "dictionary", layer)
            dictionary = starting_dictionary(plan.start, mlp, layer, passage.x[batch.counted], generator)
            variance = variance_of(passage.out[batch.counted])
            trainers[layer] = SparseTrainer.start(
                dictionary,
                variance,
                encoder,
                auxiliary=plan.auxiliary,
                dead_after=plan.dead_after,
                balance=plan.balance,
            )

        run_trunk(model, batch.tokens, visit, upto=max(plan.layers), half=plan.half)
        return LayersApart(trainers, group)

    def step(self, model: LanguageModel, batch: Batch, plan: CorpusPlan, step: int) -> dict[int, StepMeasures]:
        found: dict[int, StepMeasures] = {}
        reading = reading_of(batch, self.group)

        def visit(layer: int, passage: Passage) -> None:
            if layer in self.trainers:
                read, written = sides_of(layer, passage, reading.own)
                found[layer] = self._learn(self.trainers[layer], read, written, reading, plan, step)

        run_trunk(model, reading.own.tokens, visit, upto=max(self.trainers), half=plan.half)
        return found

    def finished(self) -> dict[int, Dictionary]:
        return {layer: trainer.dictionary(layer) for layer, trainer in self.trainers.items()}

    def _learn(
        self,
        trainer: SparseTrainer,
        read: Float[Tensor, "token d_model"],
        written: Float[Tensor, "token d_model"],
        reading: Reading,
        plan: CorpusPlan,
        step: int,
    ) -> StepMeasures:
        sums = Sums()
        for update in updates_of(plan, step, reading):
            result = trainer.step(
                read[update.tokens],
                written[update.tokens],
                update.learning_rate,
                k=update.k,
                balanced=update.balanced,
                share=Share(self.group, update.n_tokens),
            )
            sums.add(result, plan, reading.n_tokens)
        return sums.measures(trainer)


def sides_of(
    layer: int, passage: Passage, batch: Batch
) -> tuple[Float[Tensor, "token d_model"], Float[Tensor, "token d_model"]]:
    """Give what the MLP reads and writes at the tokens that count.

    Raises:
        NonFiniteError: it writes NaN or infinity.
    """
    read, written = passage.x[batch.counted], passage.out[batch.counted]
    if not torch.isfinite(written).all():
        raise NonFiniteError(f"the MLP of layer {layer} gives NaN or infinity", "check the model's weights")
    return read, written
