"""How long training on a corpus takes here: a few of the very steps that it will make, timed and multiplied out.

Every kind of work is done as the run does it, on its shapes, for all of its layers. Layers that learn apart are alike,
so a few dictionaries stand in for all of them, which keeps the memory small; they are more than one, so that a layer's
weights are out of the processor's caches again when its turn comes, as they will be. A transcoder across layers is
made whole. Processes that train together take their steps together here too.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import torch

from hagd.artifacts.document import Document
from hagd.attribution.replacement import Replacement
from hagd.corpora.corpus import Corpus
from hagd.dictionaries.storage import any_dictionaries_to_document
from hagd.models.language_model import LanguageModel
from hagd.models.trunk import Passage, run_trunk
from hagd.pipeline.contract import StageContext
from hagd_transcoder.domain.corpus_evaluation import (
    ALONE_TOKENS,
    FITTED_TOKENS,
    MEASURED_TOKENS,
    REPLACED_TOKENS,
    batches_of,
    divergence,
    fit_batch,
    log_probabilities,
    measure_batch,
    sums_of,
)
from hagd_transcoder.domain.corpus_plan import SCALE_TOKENS, CorpusPlan
from hagd_transcoder.domain.corpus_training import start_layers, windows_of_step
from hagd_transcoder.domain.finetuning import finetune_step
from hagd_transcoder.domain.group import ALONE, Group
from hagd_transcoder.domain.layers import Layers, LayersApart, reading_of
from hagd_transcoder.domain.saving import SavePoints
from hagd_transcoder.domain.schedules import annealed
from hagd_transcoder.domain.sparse.trainer import state_of_trainers
from hagd_transcoder.domain.traced_evaluation import trace_prompts

_STAND_INS: Final = 4
"""Layers whose dictionaries are made."""
_SLICES: Final = 10
"""Parts of the schedule whose middles are timed."""
_DEAD: Final = 0.25
"""Share of the features that is taken to be dead once one can be: to revive them costs time, and nobody knows how many
there will be."""

Seconds = Callable[[], float]


@dataclass(frozen=True)
class TrainingTime:
    """Seconds by kind of work."""

    start: float
    steps: float
    finetuning: float
    checkpoints: float
    measuring: float
    tracing: float
    storing: float

    @property
    def total(self) -> float:
        return (
            self.start + self.steps + self.finetuning + self.checkpoints + self.measuring + self.tracing + self.storing
        )


class Learning(NamedTuple):
    """What the steps of a plan take, and the dictionaries that took some."""

    made: Layers
    """Those that there are."""
    stand_ins: Layers
    """The same for all layers."""
    start: float
    steps: float
    run: float
    """Of the model, once."""
    finetuning: float


@torch.no_grad()
def time_learning(
    model: LanguageModel,
    corpus: Corpus,
    plan: CorpusPlan,
    context: StageContext,
    group: Group = ALONE,
    clock: Seconds = time.monotonic,
) -> Learning:
    """Estimate the seconds of what all members of a group do; arguments as of `time_training`.

    Raises:
        NonFiniteError, WorkerDiedError: as `train_on_corpus`.
    """
    windows, n_layers = corpus.windows("train"), len(plan.layers)
    some = plan.layers[:: -(-n_layers // _STAND_INS)] if plan.decoders == "own" else plan.layers
    began = clock()
    made = start_layers(model, windows, replace(plan, layers=some), group)
    started = clock() - began
    stand_ins: Layers = made
    if isinstance(made, LayersApart):
        alike = {layer: made.trainers[some[number % len(some)]] for number, layer in enumerate(plan.layers)}
        stand_ins = LayersApart(alike, group)
    steps, run = _time_steps(model, corpus, plan, stand_ins, context, group, clock)
    # Every member runs the model on all of the windows that it starts by.
    n_windows = max(1, min(len(windows), SCALE_TOKENS // corpus.context))
    at_start = min(started, run * group.size * n_windows / plan.windows)
    return Learning(
        made=made,
        stand_ins=stand_ins,
        start=at_start + (started - at_start) * n_layers / len(some),
        steps=steps,
        run=run,
        finetuning=_time_finetuning(model, corpus, plan, stand_ins, context, group, clock),
    )


@torch.no_grad()
def time_training(
    model: LanguageModel,
    corpus: Corpus,
    plan: CorpusPlan,
    context: StageContext,
    *,
    learning: Learning | None = None,
    shards: int = 1,
    traced: int = 0,
    clock: Seconds = time.monotonic,
) -> TrainingTime:
    """Estimate the seconds of a plan.

    Args:
        model: whose MLPs they are.
        corpus: what is trained and measured on.
        plan: what is trained.
        context: keeps the checkpoint that is timed.
        learning: what a group found of its steps; those of this process alone are timed when None.
        shards: parts of the layers, trained one after the other.
        traced: held-out prompts that are traced at the end.
        clock: seconds from any moment.

    Raises:
        NonFiniteError: as `train_on_corpus`.
    """
    found = time_learning(model, corpus, plan, context, clock=clock) if learning is None else learning
    each = len(plan.layers) / len(found.made.trainers)
    stored = _time_storing(found.made, clock) * each
    # Each shard runs the model for itself.
    steps = found.steps + (shards - 1) * found.run * plan.alone_steps
    points = SavePoints.start(plan.steps, plan.checkpoints, clock).expected(steps + found.finetuning)
    return TrainingTime(
        start=found.start,
        steps=steps,
        finetuning=found.finetuning,
        checkpoints=points * _time_checkpoint(found.made, context, clock) * each,
        measuring=_time_measuring(model, corpus, plan, found.stand_ins, context, clock),
        tracing=traced * _time_prompt(model, corpus, found.stand_ins, context, clock) if traced else 0.0,
        storing=stored * (1 if shards == 1 else 2),
    )


def _time_steps(
    model: LanguageModel,
    corpus: Corpus,
    plan: CorpusPlan,
    layers: Layers,
    context: StageContext,
    group: Group,
    clock: Seconds,
) -> tuple[float, float]:
    """Give the seconds of all steps in which layers learn alone, and those that one run of the model takes."""
    windows = corpus.windows("train")
    # Weights stay where they start, so that no mixture of layers is learnt.
    still = replace(plan, learning_rate=0.0)
    middles = [int((number + 0.5) / _SLICES * plan.alone_steps) for number in range(_SLICES)]
    timed: dict[tuple[int, bool], float] = {}
    per_step = plan.windows * corpus.context

    def kind(step: int) -> tuple[int, bool]:
        oldest = next(iter(layers.trainers.values())).dead_after
        return annealed(step, plan.steps, plan.k_start, plan.k), step * per_step > oldest

    def take(step: int) -> float:
        if kind(step)[1]:
            for trainer in layers.trainers.values():
                trainer.idle[: int(_DEAD * len(trainer.idle))] = trainer.dead_after + 1
        began = clock()
        batch = windows.batch(windows_of_step(len(windows), plan.windows, step, plan.seed))
        layers.step(model, batch, still, step)
        return clock() - began

    take(0)
    for number, step in enumerate(middles):
        context.progress(number, _SLICES, "timing steps")
        if kind(step) not in timed:
            timed[kind(step)] = take(step)
    batch = windows.batch(windows_of_step(len(windows), plan.windows, 0, plan.seed))
    began = clock()
    run_trunk(model, reading_of(batch, group).own.tokens, _look_on, upto=max(plan.layers), half=plan.half)
    run = clock() - began
    mean = sum(timed[kind(step)] for step in middles) / _SLICES
    return mean * plan.alone_steps, run


def _time_finetuning(
    model: LanguageModel,
    corpus: Corpus,
    plan: CorpusPlan,
    layers: Layers,
    context: StageContext,
    group: Group,
    clock: Seconds,
) -> float:
    """Give the seconds of all steps in which layers learn together: one update, times how many there are."""
    if not plan.finetune_steps:
        return 0.0
    context.progress(0, 1, "timing how layers learn together")
    windows, still = corpus.windows("train"), replace(plan, learning_rate=0.0)
    numbers = windows_of_step(len(windows), plan.windows, 0, plan.seed)[: plan.finetune_windows]
    batch = windows.batch(numbers)

    def take() -> float:
        began = clock()
        finetune_step(model, batch, layers.trainers, still, plan.steps - 1, 1.0, group)
        return clock() - began

    take()
    return take() * plan.windows / len(numbers) * plan.finetune_steps


def _look_on(layer: int, passage: Passage) -> None:
    """Let every MLP answer for itself."""


def _time_checkpoint(made: Layers, context: StageContext, clock: Seconds) -> float:
    began = clock()
    context.save_checkpoint(1, Document({"kind": "corpus-training"}, state_of_trainers(made.trainers)))
    return clock() - began


def _time_storing(made: Layers, clock: Seconds) -> float:
    began = clock()
    any_dictionaries_to_document(made.finished(), {}).encode()
    return clock() - began


def _time_prompt(
    model: LanguageModel,
    corpus: Corpus,
    layers: Layers,
    context: StageContext,
    clock: Seconds,
) -> float:
    dictionaries = layers.finished()
    began = clock()
    trace_prompts(model, dictionaries, corpus.windows("held-out"), 1, context)
    return clock() - began


def _time_measuring(
    model: LanguageModel,
    corpus: Corpus,
    plan: CorpusPlan,
    layers: Layers,
    context: StageContext,
    clock: Seconds,
) -> float:
    """Give the seconds that measuring takes: one batch of every kind, times how many there are."""
    context.progress(0, 1, "timing how dictionaries are measured")
    train, held_out, dictionaries = corpus.windows("train"), corpus.windows("held-out"), layers.finished()
    replacement, sums = Replacement(dictionaries, model), sums_of(dictionaries, model)

    def timed(work: Callable[[], object]) -> float:
        began = clock()
        work()
        return clock() - began

    fitted, measured = batches_of(train, FITTED_TOKENS, plan.seed), batches_of(held_out, MEASURED_TOKENS, plan.seed)
    replaced = batches_of(held_out, REPLACED_TOKENS, plan.seed)
    fit = timed(lambda: fit_batch(model, replacement, sums, fitted[0][0]))
    began = clock()
    maps = {layer: it.fit.solve() for layer, it in sums.items()}
    solve = clock() - began
    measure = timed(lambda: measure_batch(model, replacement, sums, maps, *measured[0]))
    batch = replaced[0][0]
    plain = timed(lambda: log_probabilities(model, batch, None, ()))
    instead = timed(lambda: log_probabilities(model, batch, replacement, sums))
    found = log_probabilities(model, batch, None, ())
    differ = timed(lambda: divergence(found, found))
    # Across layers, those below are encoded again for each that is replaced.
    again = (len(sums) + 1) / 2 if replacement.across else 1
    alone = len(batches_of(held_out, ALONE_TOKENS, plan.seed)[0][0].tokens) / len(batch.tokens)
    return (
        len(fitted) * fit
        + solve
        + len(measured) * measure
        + len(replaced) * (2 * plain + instead + 2 * differ)
        + alone * ((1 + len(sums)) * plain + len(sums) * differ + again * max(0.0, instead - plain))
    )
