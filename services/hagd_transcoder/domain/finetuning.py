"""Fine-tune the dictionaries of all layers together, on what they do to the model's predictions.

A layer that learns alone counts every direction of its MLP's output alike, and knows nothing of what other layers err
on. Here all dictionaries stand in place of their MLPs at once and learn from the divergence of the next-token
distributions, KL(model || replaced), through the replaced model. Each layer's own error on what its MLP reads in the
model as it is counts beside that, so that features go on to stand for what the MLP does. An update is some whole
windows, because predictions need what stands before them.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from hagd.corpora.corpus import Batch
from hagd.errors import NonFiniteError
from hagd.models.language_model import LanguageModel
from hagd.models.trunk import Passage, run_trunk
from hagd_transcoder.domain.corpus_plan import CorpusPlan
from hagd_transcoder.domain.group import ALONE, Group, Share
from hagd_transcoder.domain.layers import reading_of
from hagd_transcoder.domain.recording import StepMeasures
from hagd_transcoder.domain.schedules import learning_rate
from hagd_transcoder.domain.sparse.rebuilding import rebuild
from hagd_transcoder.domain.sparse.step import Weights
from hagd_transcoder.domain.sparse.trainer import SparseTrainer


class Part(NamedTuple):
    """What one member of a group reads of the windows of an update."""

    own: Batch
    share: Share
    n_following: int
    """Tokens of the update, in all members, whose next token is inside their window."""


class AsItIs(NamedTuple):
    """What the model does by itself where activations count."""

    read: dict[int, Float[Tensor, "token d_model"]]
    """By the MLP of each layer that has a dictionary."""
    written: dict[int, Float[Tensor, "token d_model"]]
    following: Float[Tensor, "token vocab"]
    """Log-probabilities of what follows each token, where that is inside the window."""


class Finetuned(NamedTuple):
    """What a step says."""

    measures: dict[int, StepMeasures]
    kl_nats: float
    """Of the batch, with all MLPs replaced."""


def finetune_step(
    model: LanguageModel,
    batch: Batch,
    trainers: Mapping[int, SparseTrainer],
    plan: CorpusPlan,
    step: int,
    weight: float,
    group: Group = ALONE,
) -> Finetuned:
    """Take the updates of all layers on what one step reads; give their means.

    Args:
        model: stays as it is.
        batch: what is read, by all members.
        trainers: by layer.
        plan: what is trained.
        step: which it is, counted from the beginning of training.
        weight: of the divergence beside the sum of the layers' errors.
        group: of whom this process reads some of the windows of every update.

    Raises:
        NonFiniteError: a loss became NaN or infinite.
        WorkerDiedError: a member of the group is gone.
    """
    parts = parts_of(batch, plan.finetune_windows, group)
    fvu, active, kl_nats = dict.fromkeys(trainers, 0.0), dict.fromkeys(trainers, 0.0), 0.0
    for number, part in enumerate(parts):
        expected = run_as_it_is(model, part.own, trainers, half=plan.half)
        divergence, gradients = differentiate(model, part, trainers, expected)
        kl_nats += divergence / len(parts)
        rate = learning_rate(step * len(parts) + number, plan.steps * len(parts), plan.learning_rate)
        for layer, trainer in trainers.items():
            beside = {name: weight * gradient for name, gradient in gradients[layer].items()}
            read = expected.read[layer]
            result = trainer.step(read, expected.written[layer], rate, beside=beside, share=part.share)
            fvu[layer] += result.loss / len(parts)
            active[layer] += int(result.fired.sum()) / part.share.total(len(read)) / len(parts)
    measures = {layer: StepMeasures(fvu[layer], active[layer], it.dead_share()) for layer, it in trainers.items()}
    return Finetuned(measures, kl_nats)


@torch.no_grad()
def start_finetuning(
    model: LanguageModel,
    batch: Batch,
    trainers: Mapping[int, SparseTrainer],
    plan: CorpusPlan,
    group: Group = ALONE,
) -> float:
    """Give the weight at which the divergence counts as much as the plan says beside the errors of all layers.

    What thresholds were to become while layers learnt alone is forgotten: rare features were favoured then, and
    batches were of another size.
    """
    sums = torch.zeros(2, dtype=torch.float64)
    for trainer in trainers.values():
        trainer.forget_cutoff()
    for part in parts_of(batch, plan.finetune_windows, group):
        expected = run_as_it_is(model, part.own, trainers, half=plan.half)
        for layer, trainer in trainers.items():
            read = expected.read[layer]
            error = expected.written[layer] - rebuild(trainer.weights, read, trainer.encoder, part.share)
            sums[0] += float(error.square().sum()) / part.share.total(len(read)) / trainer.variance
        weights = {layer: trainer.weights for layer, trainer in trainers.items()}
        sums[1] += float(diverge(model, part, trainers, weights, expected))
    group.sum_([sums])
    errors, divergence = sums.tolist()
    return plan.finetune_weight * errors / max(divergence, torch.finfo(torch.float32).tiny)


def parts_of(batch: Batch, n_windows: int, group: Group = ALONE) -> Sequence[Part]:
    """Divide a batch into parts of so many windows, and give of each what this member reads."""
    split = zip(batch.tokens.split(n_windows), batch.counted.split(n_windows), strict=True)
    return [part_of(Batch(tokens, counted), group) for tokens, counted in split]


def part_of(batch: Batch, group: Group = ALONE) -> Part:
    """Give what this member reads of the windows of one update."""
    own, _, n_tokens = reading_of(batch, group)
    return Part(own, Share(group, n_tokens), int(batch.counted[:, 1:].sum()))


def run_as_it_is(model: LanguageModel, batch: Batch, layers: Mapping[int, object], *, half: bool) -> AsItIs:
    """Run the model and keep what its MLPs do; `half` as of `run_trunk`."""
    read, written = dict[int, Tensor](), dict[int, Tensor]()

    def visit(layer: int, passage: Passage) -> None:
        if layer in layers:
            read[layer], written[layer] = passage.x[batch.counted], passage.out[batch.counted]

    resid = run_trunk(model, batch.tokens, visit, half=half)
    return AsItIs(read, written, _following(model, resid, batch))


def differentiate(
    model: LanguageModel, part: Part, trainers: Mapping[int, SparseTrainer], expected: AsItIs
) -> tuple[float, dict[int, dict[str, Tensor]]]:
    """Give the divergence of the update, and this member's share of its gradients, by layer and by name of the weights.

    Raises:
        NonFiniteError: the divergence is NaN or infinite.
    """
    leaves = {
        layer: {name: tensor.detach().requires_grad_() for name, tensor in trainer.weights.items()}
        for layer, trainer in trainers.items()
    }
    with torch.enable_grad():
        found = diverge(model, part, trainers, leaves, expected)
    whole = found.detach().clone()
    part.share.group.sum_([whole])
    if not torch.isfinite(whole):
        raise NonFiniteError(
            f"fine-tuning diverged: KL with all MLPs replaced is {float(whole)}",
            "lower the learning rate of the stage",
        )
    names = [(layer, name) for layer, weights in leaves.items() for name in weights]
    gradients: dict[int, dict[str, Tensor]] = {layer: {} for layer in leaves}
    flat = torch.autograd.grad(found, [leaves[layer][name] for layer, name in names])
    for (layer, name), gradient in zip(names, flat, strict=True):
        gradients[layer][name] = gradient
    return float(whole), gradients


def diverge(
    model: LanguageModel,
    part: Part,
    trainers: Mapping[int, SparseTrainer],
    weights: Mapping[int, Weights],
    expected: AsItIs,
) -> Float[Tensor, ""]:
    """Put dictionaries of some weights in place of their MLPs; give KL(model || replaced) per token, in nats.

    That of the update is the sum of what its members find.

    Position 0 keeps its MLPs, as it does where dictionaries are measured. There and behind the end of a window no
    gradient has to flow: nothing that counts hears a dictionary through them.
    """
    encoders, batch = {layer: trainer.encoder for layer, trainer in trainers.items()}, part.own

    def visit(layer: int, passage: Passage) -> Tensor | None:
        if layer not in weights:
            return None
        rebuilt = rebuild(weights[layer], passage.x[batch.counted], encoders[layer], part.share)
        return passage.out.detach().index_put((batch.counted,), rebuilt)

    resid = run_trunk(model, batch.tokens, visit, half=any(it.half for it in encoders.values()))
    other = _following(model, resid, batch)
    return functional.kl_div(other, expected.following, reduction="sum", log_target=True) / part.n_following


def _following(
    model: LanguageModel, resid: Float[Tensor, "batch pos d_model"], batch: Batch
) -> Float[Tensor, "token vocab"]:
    return functional.log_softmax(model.logits(resid[:, :-1][batch.counted[:, 1:]]), dim=-1)
