"""Train the dictionaries of all layers together: one run of the model per step, one optimiser, one checkpoint. Those
whose losses look at one layer alone are trained by `local_training`.

Everything random comes from one generator whose state is part of the checkpoint, so a run that was stopped and
resumed ends with the same bytes as one that was not (on one CPU).
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hagd.artifacts.document import Document
from hagd.dictionaries.dictionary import Dictionary
from hagd.errors import NonFiniteError
from hagd.models.language_model import LanguageModel
from hagd.pipeline.contract import StageContext
from hagd.tasks.splits import generator_for
from hagd.tasks.task import PromptBatch
from hagd_transcoder.domain.behaviour import behaviour_loss, draw_prefix
from hagd_transcoder.domain.discovery import Discovery, Sample, causal_positions, other_positions
from hagd_transcoder.domain.learner import (
    Learner,
    auxiliary_loss,
    balance_loss,
    nested_loss,
    reconstruction_loss,
    start_learner,
)
from hagd_transcoder.domain.local_training import train_locally
from hagd_transcoder.domain.plan import CHECKPOINTS, ELSEWHERE, ELSEWHERE_SHARE, SCALE_PROMPTS, TrainingPlan
from hagd_transcoder.domain.saving import SavePoints


def train(
    model: LanguageModel, batches: Sequence[PromptBatch], plan: TrainingPlan, context: StageContext
) -> dict[int, Dictionary]:
    """Train one dictionary per planned layer on the clean prompts of `batches`.

    Raises:
        NonFiniteError: the loss became NaN or infinite.
        CancelledError: raised by `context.progress`.
    """
    if plan.is_local:
        return train_locally(model, batches, plan, context)
    context.progress(0, plan.steps, "recording what the MLPs read and write")
    discovery = Discovery(model, batches)
    generator = generator_for(plan.seed, "dictionaries")
    learners = _start(model, discovery, plan, generator)
    optimiser = torch.optim.Adam(
        [tensor for learner in learners for tensor in learner.tensors.values()], lr=plan.learning_rate, fused=True
    )
    first = _restore(context, learners, optimiser, generator)
    points = SavePoints.start(plan.steps, CHECKPOINTS)
    for step in range(first, plan.steps):
        loss = _step(model, discovery, learners, optimiser, plan, step, generator)
        saving = points.is_due(step)
        if saving or step % 10 == 0 or step == plan.steps - 1:
            _require_finite(loss, step)
            context.progress(step + 1, plan.steps, f"training dictionaries, loss {float(loss):.4f}")
        if saving:
            context.save_checkpoint(step + 1, _checkpoint(learners, optimiser, generator))
    return {learner.layer: learner.finished() for learner in learners}


def _start(model: LanguageModel, discovery: Discovery, plan: TrainingPlan, generator: torch.Generator) -> list[Learner]:
    sample = discovery.first(SCALE_PROMPTS)
    learners: list[Learner] = []
    for layer in plan.layers:
        causal = causal_positions(sample.prompts.layout, layer, model.config.n_layers)
        inputs = sample.activations.mlp_in[layer][:, causal]
        learners.append(start_learner(plan, model.blocks[layer].mlp, layer, inputs, generator))
    return learners


def _step(
    model: LanguageModel,
    discovery: Discovery,
    learners: Sequence[Learner],
    optimiser: torch.optim.Adam,
    plan: TrainingPlan,
    step: int,
    generator: torch.Generator,
) -> Float[Tensor, ""]:
    """Take one optimiser step and give the loss."""
    sample = discovery.draw(plan.batch, generator)
    prefixes = {one.layer: draw_prefix(one.smallest_prefix, plan.n_features, generator) for one in learners}
    shift = int(torch.randint(1, max(2, plan.batch), (), generator=generator))
    for group in optimiser.param_groups:
        group["lr"] = plan.learning_rate_at(step)
    optimiser.zero_grad()
    loss = _loss(model, sample, learners, plan, plan.k_at(step), prefixes, shift)
    torch.autograd.backward(loss)
    optimiser.step()
    return loss.detach()


def _loss(
    model: LanguageModel,
    sample: Sample,
    learners: Sequence[Learner],
    plan: TrainingPlan,
    k: int,
    prefixes: Mapping[int, int],
    shift: int,
) -> Float[Tensor, ""]:
    """Sum the losses of all layers, and that of the whole model with only the prefixes live."""
    total = torch.zeros(())
    dictionaries: dict[int, Dictionary] = {}
    features: dict[int, Tensor] = {}
    for learner in learners:
        loss, kept = _layer_loss(model, sample, learner, k, prefixes[learner.layer])
        total = total + loss
        dictionaries[learner.layer], features[learner.layer] = learner.dictionary(k), kept
    if plan.behaviour:
        total = total + plan.behaviour * behaviour_loss(model, sample, dictionaries, features, prefixes, shift)
    return total


def _layer_loss(
    model: LanguageModel, sample: Sample, learner: Learner, k: int, prefix: int
) -> tuple[Float[Tensor, ""], Float[Tensor, "batch causal d_feature"]]:
    """Give the losses that look at one layer alone, and its features at the causal positions."""
    layer, plan, layout = learner.layer, learner.plan, sample.prompts.layout
    causal = causal_positions(layout, layer, model.config.n_layers)
    x, out = sample.activations.mlp_in[layer][:, causal], sample.activations.mlp_out[layer][:, causal]
    dictionary = learner.dictionary(k)
    raw, kept = learner.activate(x, k)
    learner.count_idle(kept)
    error = out - dictionary.decode(kept, x)
    loss = reconstruction_loss(learner, error) + _elsewhere_loss(model, sample, learner, k)
    if plan.nested:
        loss = loss + plan.nested * nested_loss(learner, error, kept, prefix)
    if plan.balance:
        loss = loss + plan.balance * balance_loss(learner, raw)
    if plan.auxiliary and (auxiliary := auxiliary_loss(learner, dictionary, error, x)) is not None:
        loss = loss + plan.auxiliary * auxiliary
    return loss, kept


def _elsewhere_loss(model: LanguageModel, sample: Sample, learner: Learner, k: int) -> Float[Tensor, ""]:
    """Give the weighted error at positions that cannot reach a judged logit, on a few of the prompts."""
    layer = learner.layer
    others = other_positions(sample.prompts.layout, layer, model.config.n_layers)
    few = max(1, len(sample.prompts) // ELSEWHERE_SHARE)
    if not len(others):
        return torch.zeros(())
    x, out = (part[layer][:few, others] for part in (sample.activations.mlp_in, sample.activations.mlp_out))
    _, kept = learner.activate(x, k)
    return ELSEWHERE * reconstruction_loss(learner, out - learner.dictionary(k).decode(kept, x))


def _require_finite(loss: Float[Tensor, ""], step: int) -> None:
    if not torch.isfinite(loss):
        raise NonFiniteError(
            f"training dictionaries diverged at step {step}: the loss is {float(loss)}",
            "lower transcoder.learning_rate",
        )


def _checkpoint(learners: Sequence[Learner], optimiser: torch.optim.Adam, generator: torch.Generator) -> Document:
    """Keep tensors, optimiser, counters and the random state; the schedules follow from the step."""
    arrays = {"generator": generator.get_state().numpy()}
    for learner in learners:
        arrays[f"{learner.layer}.idle"] = learner.idle.numpy()
        for name, tensor in learner.tensors.items():
            arrays[f"{learner.layer}.{name}"] = tensor.detach().numpy().copy()
            for part, value in optimiser.state[tensor].items():
                arrays[f"{learner.layer}.{name}.{part}"] = value.numpy().copy()
    return Document({"kind": "dictionaries-in-training"}, arrays)


def _restore(
    context: StageContext, learners: Sequence[Learner], optimiser: torch.optim.Adam, generator: torch.Generator
) -> int:
    """Go on from the latest checkpoint, if there is one, and give the step to start with."""
    found = context.load_checkpoint()
    if found is None:
        return 0
    step, state = found

    def saved(name: str) -> Tensor:
        return torch.from_numpy(state.tensors[name].copy())

    generator.set_state(saved("generator"))
    for learner in learners:
        learner.idle = saved(f"{learner.layer}.idle")
        for name, tensor in learner.tensors.items():
            place = f"{learner.layer}.{name}"
            with torch.no_grad():
                tensor.copy_(saved(place))
            optimiser.state[tensor] = {part: saved(f"{place}.{part}") for part in ("step", "exp_avg", "exp_avg_sq")}
    return step
