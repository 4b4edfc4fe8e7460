"""Train the dictionaries of all layers on a corpus: one run of the model feeds them all, layer after layer.

A layer learns as soon as the run has passed it, so no activations are kept: the tokens of a run are shuffled and
divided into some updates, because neighbours in a text say much the same. In the last steps all layers may learn
together (`finetuning.py`). Which windows a step reads follows from its number alone, so a checkpoint needs no position
in the data.
"""

import time
from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hagd.artifacts.document import Document
from hagd.corpora.corpus import Batch, Windows
from hagd.dictionaries.dictionary import Dictionary
from hagd.dictionaries.history import TrainingHistory
from hagd.errors import NonFiniteError
from hagd.models.language_model import LanguageModel
from hagd.models.trunk import Passage, run_trunk
from hagd.pipeline.contract import StageContext
from hagd.tasks.splits import generator_for
from hagd_transcoder.domain.corpus_plan import SCALE_TOKENS, CorpusPlan
from hagd_transcoder.domain.finetuning import finetune_step, start_finetuning
from hagd_transcoder.domain.recording import Recorder, StepMeasures
from hagd_transcoder.domain.schedules import annealed, is_balanced, learning_rate
from hagd_transcoder.domain.sparse.step import Encoder
from hagd_transcoder.domain.sparse.trainer import SparseTrainer, restore_trainers, state_of_trainers
from hagd_transcoder.domain.starting import starting_dictionary, variance_of

_WEIGHT: Final = "finetune.weight"


class Trained(NamedTuple):
    """What training gives."""

    dictionaries: dict[int, Dictionary]
    history: TrainingHistory


@torch.no_grad()
def train_on_corpus(model: LanguageModel, windows: Windows, plan: CorpusPlan, context: StageContext) -> Trained:
    """Train one dictionary per planned layer.

    Raises:
        NonFiniteError: an activation or a loss became NaN or infinite.
        CancelledError: raised by `context.progress`.
    """
    context.progress(0, plan.steps, "finding where to start")
    trainers = start_layers(model, windows, plan)
    recorder = Recorder.start(plan.layers, plan.steps)
    first, weight = _restore(context, trainers, recorder)
    every, began = max(1, plan.steps // plan.checkpoints), time.monotonic()
    read, spent = recorder.so_far()
    for step in range(first, plan.steps):
        batch = windows.batch(windows_of_step(len(windows), plan.windows, step, plan.seed))
        if step < plan.alone_steps:
            measures, kl_nats = step_layers(model, batch, trainers, plan, step), None
        else:
            weight = start_finetuning(model, batch, trainers, plan) if weight is None else weight
            measures, kl_nats = finetune_step(model, batch, trainers, plan, step, weight)
        read += int(batch.counted.sum())
        seconds = spent + time.monotonic() - began
        recorder.add(step, measures, read, seconds, kl_nats)
        context.progress(step + 1, plan.steps, _told(measures, kl_nats, read / seconds))
        if (step + 1) % every == 0 and step + 1 < plan.steps:
            state = state_of_trainers(trainers) | recorder.state()
            if weight is not None:
                state[_WEIGHT] = np.array([weight])
            context.save_checkpoint(step + 1, Document({"kind": "corpus-training"}, state))
    dictionaries = {layer: trainer.dictionary(layer) for layer, trainer in trainers.items()}
    return Trained(dictionaries, recorder.history())


def windows_of_step(n_windows: int, count: int, step: int, seed: int) -> Int[Tensor, " batch"]:
    """Give the windows of a step: every window comes once before any comes again, in an order drawn anew each time."""
    numbers: list[Tensor] = []
    at, end = step * count, (step + 1) * count
    while at < end:
        epoch, offset = divmod(at, n_windows)
        order = torch.randperm(n_windows, generator=generator_for(seed, "windows", epoch))
        numbers.append(order[offset : offset + end - at])
        at += len(numbers[-1])
    return torch.cat(numbers)


def start_layers(model: LanguageModel, windows: Windows, plan: CorpusPlan) -> dict[int, SparseTrainer]:
    count = max(1, min(len(windows), SCALE_TOKENS // windows.corpus.context))
    batch = windows.batch(windows_of_step(len(windows), count, 0, plan.seed))
    trainers: dict[int, SparseTrainer] = {}
    encoder = Encoder(plan.start.activation, plan.k, plan.rule, half=plan.half)

    def visit(layer: int, passage: Passage) -> None:
        if layer not in plan.layers:
            return
        mlp, generator = model.blocks[layer].mlp, generator_for(plan.seed, "dictionary", layer)
        dictionary = starting_dictionary(plan.start, mlp, layer, passage.x[batch.counted], generator)
        variance = variance_of(passage.out[batch.counted])
        trainers[layer] = SparseTrainer.start(
            dictionary, variance, encoder, auxiliary=plan.auxiliary, balance=plan.balance
        )

    run_trunk(model, batch.tokens, visit, upto=max(plan.layers), half=plan.half)
    return trainers


def step_layers(
    model: LanguageModel, batch: Batch, trainers: Mapping[int, SparseTrainer], plan: CorpusPlan, step: int
) -> dict[int, StepMeasures]:
    """Take one step of every layer; give what each says."""
    found: dict[int, StepMeasures] = {}

    def visit(layer: int, passage: Passage) -> None:
        if layer in trainers:
            read, written = passage.x[batch.counted], passage.out[batch.counted]
            if not torch.isfinite(written).all():
                raise NonFiniteError(f"the MLP of layer {layer} gives NaN or infinity", "check the model's weights")
            found[layer] = learn(trainers[layer], read, written, plan, step)

    run_trunk(model, batch.tokens, visit, upto=max(trainers), half=plan.half)
    return found


def learn(
    trainer: SparseTrainer,
    read: Float[Tensor, "token d_model"],
    written: Float[Tensor, "token d_model"],
    plan: CorpusPlan,
    step: int,
) -> StepMeasures:
    """Take the updates of one layer on what one step has read; give their means."""
    order = torch.randperm(len(read), generator=generator_for(plan.seed, "tokens", step))
    loss, active, total = 0.0, 0.0, plan.steps * plan.updates
    for number, part in enumerate(order.tensor_split(plan.updates)):
        at = step * plan.updates + number
        result = trainer.step(
            read[part],
            written[part],
            learning_rate(at, total, plan.learning_rate),
            k=annealed(at, total, plan.k_start, plan.k),
            balanced=is_balanced(at, total),
        )
        loss += result.loss / plan.updates
        active += int(result.fired.sum()) / len(read)
    return StepMeasures(loss, active, trainer.dead_share())


def _told(measures: Mapping[int, StepMeasures], kl_nats: float | None, speed: float) -> str:
    mean = sum(it.fvu for it in measures.values()) / len(measures)
    together = "" if kl_nats is None else f", {kl_nats:.3f} nats with all MLPs replaced"
    return f"unexplained {mean:.3f} of the variance{together}, {speed:.0f} tokens/s"


def _restore(
    context: StageContext, trainers: Mapping[int, SparseTrainer], recorder: Recorder
) -> tuple[int, float | None]:
    """Go on from the latest checkpoint, if there is one; give the step to start with, and the weight of the divergence
    once that is settled."""
    found = context.load_checkpoint()
    if found is None:
        return 0, None
    step, state = found
    restore_trainers(trainers, state.tensors)
    recorder.restore(state.tensors)
    return step, float(state.tensors[_WEIGHT][0]) if _WEIGHT in state.tensors else None
