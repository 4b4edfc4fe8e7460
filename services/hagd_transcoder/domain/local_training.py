"""Train dictionaries whose losses look at one layer alone: each layer steps by itself, on the sparse path.

One run of the model feeds all layers. Checkpoints and random numbers are as in `training`, which trains the others.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from hagd.artifacts.document import Document
from hagd.dictionaries.dictionary import Dictionary
from hagd.models.language_model import LanguageModel
from hagd.pipeline.contract import StageContext
from hagd.tasks.splits import generator_for
from hagd.tasks.task import PromptBatch
from hagd_transcoder.domain.discovery import Discovery, Sample, causal_positions, other_positions
from hagd_transcoder.domain.plan import CHECKPOINTS, ELSEWHERE, ELSEWHERE_SHARE, SCALE_PROMPTS, TrainingPlan
from hagd_transcoder.domain.saving import SavePoints
from hagd_transcoder.domain.sparse.step import Encoder
from hagd_transcoder.domain.sparse.trainer import SparseTrainer, restore_trainers, state_of_trainers
from hagd_transcoder.domain.starting import Start, starting_dictionary, variance_of

_DEAD_STEPS: Final = 100
"""Steps of the usual size whose tokens a feature may be silent on before it counts as dead."""


@torch.no_grad()
def train_locally(
    model: LanguageModel, batches: Sequence[PromptBatch], plan: TrainingPlan, context: StageContext
) -> dict[int, Dictionary]:
    """Train one dictionary per planned layer on the clean prompts of `batches`.

    Raises:
        NonFiniteError: a loss became NaN or infinite.
        CancelledError: raised by `context.progress`.
    """
    context.progress(0, plan.steps, "recording what the MLPs read and write")
    discovery = Discovery(model, batches)
    generator = generator_for(plan.seed, "dictionaries")
    trainers = _start(model, discovery, plan, generator)
    first = _restore(context, trainers, generator)
    points = SavePoints.start(plan.steps, CHECKPOINTS)
    for step in range(first, plan.steps):
        sample = discovery.draw(plan.batch, generator)
        losses = [_step(model, sample, layer, trainer, plan, step) for layer, trainer in trainers.items()]
        saving = points.is_due(step)
        if saving or step % 10 == 0 or step == plan.steps - 1:
            context.progress(step + 1, plan.steps, f"training dictionaries, loss {sum(losses) / len(losses):.4f}")
        if saving:
            context.save_checkpoint(step + 1, _checkpoint(trainers, generator))
    return {layer: trainer.dictionary(layer) for layer, trainer in trainers.items()}


def _start(
    model: LanguageModel, discovery: Discovery, plan: TrainingPlan, generator: torch.Generator
) -> dict[int, SparseTrainer]:
    sample = discovery.first(SCALE_PROMPTS)
    trainers = dict[int, SparseTrainer]()
    for layer in plan.layers:
        causal = causal_positions(sample.prompts.layout, layer, model.config.n_layers)
        x, mlp = sample.activations.mlp_in[layer][:, causal].flatten(0, 1), model.blocks[layer].mlp
        start = Start(plan.n_features, plan.start, plan.skip, mlp.activation, mlp.w_gate is not None)
        dictionary = starting_dictionary(start, mlp, layer, x, generator)
        others = other_positions(sample.prompts.layout, layer, model.config.n_layers)
        tokens = plan.batch * len(causal) + _few(plan.batch) * len(others)
        trainers[layer] = SparseTrainer.start(
            dictionary,
            variance_of(mlp(x)),
            Encoder(mlp.activation, plan.k),
            auxiliary=plan.auxiliary,
            dead_after=_DEAD_STEPS * tokens,
        )
    return trainers


def _step(
    model: LanguageModel, sample: Sample, layer: int, trainer: SparseTrainer, plan: TrainingPlan, step: int
) -> float:
    """Take one step of one layer, and give its loss."""
    x, out, importance = _tokens(model, sample, layer)
    rate, k = plan.learning_rate_at(step), plan.k_at(step)
    return trainer.step(x, out, rate, k=k, importance=importance).loss


def _tokens(
    model: LanguageModel, sample: Sample, layer: int
) -> tuple[Float[Tensor, "token d_model"], Float[Tensor, "token d_model"], Float[Tensor, " token"]]:
    """Give what the MLP reads and writes where it can reach a judged logit, and a little of it elsewhere."""
    layout, n_layers = sample.prompts.layout, model.config.n_layers
    causal, others = causal_positions(layout, layer, n_layers), other_positions(layout, layer, n_layers)
    few = _few(len(sample.prompts))
    sides = [
        torch.cat([side[layer][:, causal].flatten(0, 1), side[layer][:few, others].flatten(0, 1)])
        for side in (sample.activations.mlp_in, sample.activations.mlp_out)
    ]
    n_causal = len(sample.prompts) * len(causal)
    importance = torch.full((len(sides[0]),), 1.0 / n_causal)
    importance[n_causal:] = ELSEWHERE / max(1, few * len(others))
    return sides[0], sides[1], importance


def _few(n_prompts: int) -> int:
    """Give how many prompts of a step are looked at elsewhere."""
    return max(1, n_prompts // ELSEWHERE_SHARE)


def _checkpoint(trainers: Mapping[int, SparseTrainer], generator: torch.Generator) -> Document:
    """Keep weights, moments, counts and the random state; the schedules follow from the step."""
    arrays = {"generator": generator.get_state().numpy(), **state_of_trainers(trainers)}
    return Document({"kind": "dictionaries-in-training"}, arrays)


def _restore(context: StageContext, trainers: Mapping[int, SparseTrainer], generator: torch.Generator) -> int:
    """Go on from the latest checkpoint, if there is one, and give the step to start with."""
    found = context.load_checkpoint()
    if found is None:
        return 0
    step, state = found
    generator.set_state(torch.from_numpy(state.tensors["generator"].copy()))
    restore_trainers(trainers, state.tensors)
    return step
