"""Train the dictionaries of all layers on a corpus: one run of the model feeds them all, layer after layer.

A layer steps as soon as the run has passed it, so no activations are kept. Which windows a step reads follows from
its number alone, so a checkpoint needs no position in the data.
"""

import time
from collections.abc import Mapping

import torch
from jaxtyping import Int
from torch import Tensor

from hagd.artifacts.document import Document
from hagd.corpora.corpus import Batch, Windows
from hagd.dictionaries.dictionary import Dictionary
from hagd.errors import NonFiniteError
from hagd.models.language_model import LanguageModel
from hagd.models.trunk import Passage, run_trunk
from hagd.pipeline.contract import StageContext
from hagd.tasks.splits import generator_for
from hagd_transcoder.domain.corpus_plan import SCALE_TOKENS, CorpusPlan
from hagd_transcoder.domain.schedules import annealed, learning_rate
from hagd_transcoder.domain.sparse.step import Encoder
from hagd_transcoder.domain.sparse.trainer import SparseTrainer, restore_trainers, state_of_trainers
from hagd_transcoder.domain.starting import starting_dictionary, variance_of


@torch.no_grad()
def train_on_corpus(
    model: LanguageModel, windows: Windows, plan: CorpusPlan, context: StageContext
) -> dict[int, Dictionary]:
    """Train one dictionary per planned layer.

    Raises:
        NonFiniteError: an activation or a loss became NaN or infinite.
        CancelledError: raised by `context.progress`.
    """
    context.progress(0, plan.steps, "finding where to start")
    trainers = start_layers(model, windows, plan)
    first = _restore(context, trainers)
    every, began, read = max(1, plan.steps // plan.checkpoints), time.monotonic(), 0
    for step in range(first, plan.steps):
        batch = windows.batch(windows_of_step(len(windows), plan.windows, step, plan.seed))
        losses = step_layers(model, batch, trainers, plan, step)
        read += int(batch.counted.sum())
        speed = read / (time.monotonic() - began)
        mean = sum(losses.values()) / len(losses)
        context.progress(step + 1, plan.steps, f"unexplained {mean:.3f} of the variance, {speed:.0f} tokens/s")
        if (step + 1) % every == 0 and step + 1 < plan.steps:
            context.save_checkpoint(step + 1, Document({"kind": "corpus-training"}, state_of_trainers(trainers)))
    return {layer: trainer.dictionary(layer) for layer, trainer in trainers.items()}


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
    encoder = Encoder(model.blocks[0].mlp.activation, plan.k, plan.rule, half=plan.half)

    def visit(layer: int, passage: Passage) -> None:
        if layer not in plan.layers:
            return
        mlp, generator = model.blocks[layer].mlp, generator_for(plan.seed, "dictionary", layer)
        dictionary = starting_dictionary(plan.start, mlp, layer, passage.x[batch.counted], generator)
        variance = variance_of(passage.out[batch.counted])
        trainers[layer] = SparseTrainer.start(dictionary, variance, encoder, auxiliary=plan.auxiliary)

    run_trunk(model, batch.tokens, visit, upto=max(plan.layers), half=plan.half)
    return trainers


def step_layers(
    model: LanguageModel, batch: Batch, trainers: Mapping[int, SparseTrainer], plan: CorpusPlan, step: int
) -> dict[int, float]:
    """Take one step of every layer; give their losses."""
    losses: dict[int, float] = {}
    k = annealed(step, plan.steps, plan.k_start, plan.k)
    rate = learning_rate(step, plan.steps, plan.learning_rate)

    def visit(layer: int, passage: Passage) -> None:
        if layer in trainers:
            read, written = passage.x[batch.counted], passage.out[batch.counted]
            if not torch.isfinite(written).all():
                raise NonFiniteError(f"the MLP of layer {layer} gives NaN or infinity", "check the model's weights")
            losses[layer] = trainers[layer].step(read, written, rate, k=k).loss

    run_trunk(model, batch.tokens, visit, upto=max(trainers), half=plan.half)
    return losses


def _restore(context: StageContext, trainers: Mapping[int, SparseTrainer]) -> int:
    """Go on from the latest checkpoint, if there is one, and give the step to start with."""
    found = context.load_checkpoint()
    if found is None:
        return 0
    step, state = found
    restore_trainers(trainers, state.tensors)
    return step
