"""Train the dictionaries of all layers on a corpus: one run of the model feeds them all.

Which windows a step reads follows from its number alone, so a checkpoint needs no position in the data. In the last
steps all layers may learn together (`finetuning.py`).
"""

import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from hagd.artifacts.document import Document
from hagd.corpora.corpus import Windows
from hagd.dictionaries.cross_layer import Dictionaries
from hagd.dictionaries.history import TrainingHistory
from hagd.models.language_model import LanguageModel
from hagd.pipeline.contract import StageContext
from hagd.tasks.splits import generator_for
from hagd_transcoder.domain.corpus_plan import SCALE_TOKENS, CorpusPlan
from hagd_transcoder.domain.finetuning import finetune_step, start_finetuning
from hagd_transcoder.domain.group import ALONE, Group
from hagd_transcoder.domain.layers import Layers, LayersApart
from hagd_transcoder.domain.layers_across import LayersAcross
from hagd_transcoder.domain.recording import Recorder, StepMeasures
from hagd_transcoder.domain.saving import SavePoints
from hagd_transcoder.domain.sparse.trainer import SparseTrainer, restore_trainers, state_of_trainers

_WEIGHT: Final = "finetune.weight"


class Trained(NamedTuple):
    """What training gives."""

    dictionaries: Dictionaries
    history: TrainingHistory


@torch.no_grad()
def train_on_corpus(
    model: LanguageModel,
    windows: Windows,
    plan: CorpusPlan,
    context: StageContext,
    group: Group = ALONE,
    clock: Callable[[], float] = time.monotonic,
) -> Trained:
    """Train one dictionary per planned layer, or one transcoder across all of them; `clock` gives seconds.

    A group of processes learns what one would, up to the order in which numbers are added: its updates are of the same
    tokens. All of its members call this, and the first keeps the checkpoints.

    Raises:
        NonFiniteError: an activation or a loss became NaN or infinite.
        CancelledError: raised by `context.progress`.
        WorkerDiedError: a member of the group is gone.
    """
    context.progress(0, plan.steps, "finding where to start")
    layers = start_layers(model, windows, plan, group)
    recorder = Recorder.start(plan.layers, plan.steps)
    first, weight = _restore(context, layers.trainers, recorder)
    saving, began = SavePoints.start(plan.steps, plan.checkpoints, clock), clock()
    read, spent = recorder.so_far()
    for step in range(first, plan.steps):
        batch = windows.batch(windows_of_step(len(windows), plan.windows, step, plan.seed))
        kl_nats: float | None = None
        if step < plan.alone_steps:
            measures = layers.step(model, batch, plan, step)
        else:
            weight = start_finetuning(model, batch, layers.trainers, plan, group) if weight is None else weight
            measures, kl_nats = finetune_step(model, batch, layers.trainers, plan, step, weight, group)
        read += int(batch.counted.sum())
        seconds = spent + clock() - began
        recorder.add(step, measures, read, seconds, kl_nats)
        context.progress(step + 1, plan.steps, _told(measures, kl_nats, read / seconds))
        if group.rank == 0 and saving.is_due(step):
            state = state_of_trainers(layers.trainers) | recorder.state()
            if weight is not None:
                state[_WEIGHT] = np.array([weight])
            context.save_checkpoint(step + 1, Document({"kind": "corpus-training"}, state))
    return Trained(layers.finished(), recorder.history())


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


def start_layers(model: LanguageModel, windows: Windows, plan: CorpusPlan, group: Group = ALONE) -> Layers:
    """Begin where the plan says, on the windows that set scales and rank neurons; a group does as its first member."""
    count = max(1, min(len(windows), SCALE_TOKENS // windows.corpus.context))
    batch = windows.batch(windows_of_step(len(windows), count, 0, plan.seed))
    layers = (LayersApart if plan.decoders == "own" else LayersAcross).start(model, batch, plan, group)
    # Neurons of nearly the same use would be ranked in the order of rounding errors.
    group.spread_([tensor for trainer in layers.trainers.values() for tensor in trainer.weights.values()])
    return layers


def _told(measures: Mapping[int, StepMeasures], kl_nats: float | None, speed: float) -> str:
    fvu, active, dead = (sum(column) / len(measures) for column in zip(*measures.values(), strict=True))
    together = "" if kl_nats is None else f", {kl_nats:.3f} nats with all MLPs replaced"
    return f"unexplained {fvu:.3f}, {active:.1f} active, {dead:.1%} dead{together}, {speed:.0f} tokens/s"


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
