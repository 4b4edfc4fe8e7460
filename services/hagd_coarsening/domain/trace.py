"""What the attribution graph needs of one batch of prompts: node outputs, frozen factors and one gradient.

A forward and a single backward through the real model give `g`, the gradient of the metric at every place where
nodes write (embeddings, head outputs, MLP outputs). Everything else about the graph is closed form on top of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hagd.interventions.activations import Activations, Subject, record
from hagd.models.attention import attend, project_heads
from hagd.tasks.task import Layout, PromptBatch


@dataclass(frozen=True)
class DonorPrompts:
    """Prompts, and what their nodes are compared with: the paired counterfactual and an unpaired other prompt."""

    batch: PromptBatch
    unpaired: Int[Tensor, "batch pos"]

    def __len__(self) -> int:
        return len(self.batch)

    def chunks(self, size: int) -> Iterator["DonorPrompts"]:
        """Split into pieces of at most `size` prompts."""
        for index in torch.arange(len(self)).split(size):
            yield DonorPrompts(self.batch.take(index), self.unpaired[index])


@dataclass(frozen=True)
class Gradients:
    """Gradient of the metric of each prompt with respect to node outputs, through the whole real model."""

    embed: Float[Tensor, "batch pos d_model"]
    heads: tuple[Float[Tensor, "batch pos head d_head"], ...]
    """With respect to head outputs before `w_o`."""
    mlps: tuple[Float[Tensor, "batch pos d_model"], ...]
    """With respect to what each MLP writes; a feature's gradient is this times its decoder row."""


@dataclass(frozen=True)
class Stream:
    """The residual stream at every place where something reads."""

    before_attention: tuple[Float[Tensor, "batch pos d_model"], ...]
    before_mlp: tuple[Float[Tensor, "batch pos d_model"], ...]
    final: Float[Tensor, "batch pos d_model"]


@dataclass(frozen=True)
class Trace:
    """One batch of prompts of one layout, with all that edges and scores are computed from."""

    layout: Layout
    clean: Activations
    """With patterns and MLP inputs."""
    counterfactual: Activations
    unpaired: Activations
    gradients: Gradients
    attention_in: tuple[Float[Tensor, "batch pos d_model"], ...]
    """Per layer: the normalised residual that attention reads."""
    attention_scale: tuple[Float[Tensor, "batch pos 1"], ...]
    """Per layer: 1 / denominator of the norm before attention; frozen in edges."""
    mlp_scale: tuple[Float[Tensor, "batch pos 1"], ...]
    final_scale: Float[Tensor, "batch pos 1"]
    metric: Float[Tensor, " batch"]
    """Sum over answer positions of the answer's logit minus the mean logit of the foils."""
    donor_metrics: tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]
    """The same metric (of the clean prompt's answer and foils) on the counterfactual and on the unpaired donor."""
    metric_direction: Float[Tensor, "batch answer d_model"]
    """Per answer position: the direction in the normalised final residual that the metric reads."""
    stream: Stream | None = None
    """What is read at a place on a path, where norms are live; None where denominators are frozen."""

    def __len__(self) -> int:
        return len(self.metric)


def trace_prompts(subject: Subject, prompts: DonorPrompts) -> Trace:
    """Run the prompts and their donors, and the one backward.

    Every term of the metric is a difference of logits, so it is the same whether or not logits are demeaned.
    """
    model, batch = subject.model, prompts.batch
    layout = batch.layout
    answers = layout.answer_positions
    counterfactual = record(subject, batch.counterfactual, answers)
    unpaired = record(subject, prompts.unpaired, answers)

    n_pos = batch.clean.shape[1]
    rotary, everywhere = model.rotary(n_pos), torch.arange(n_pos, device=batch.clean.device)
    direction = model.unembed.T[batch.answers] - model.unembed.T[batch.foils].mean(-2)
    heads, written, patterns, mlp_in, mlps = [], [], [], [], []
    attention_in, attention_scale, mlp_scale = [], [], []
    with torch.enable_grad():
        embed = model.embed[batch.clean].detach().requires_grad_()
        resid = embed + model.position_part(n_pos)
        for block in model.blocks:
            attention_scale.append(block.norm_attention.scale(resid.detach()))
            attention_in.append(block.norm_attention(resid))
            z, pattern = attend(block.attention, attention_in[-1], rotary, everywhere)
            heads.append(z)
            patterns.append(pattern)
            written.append(project_heads(block.attention, z))
            attended = resid + written[-1]
            heard = model.mlp_reads(resid, attended)
            mlp_scale.append(block.norm_mlp.scale(heard.detach()))
            mlp_in.append(block.norm_mlp(heard))
            mlps.append(block.mlp(mlp_in[-1]))
            resid = attended + mlps[-1]
        logits = model.logits(resid[:, list(answers)])
        metric = _metric(logits, batch)
        found = torch.autograd.grad(metric.sum(), [embed, *heads, *mlps], materialize_grads=True)
    clean = Activations(
        embed, tuple(heads), tuple(written), tuple(patterns), tuple(mlp_in), tuple(mlps), {}, {}, {}, logits
    ).map(torch.Tensor.detach)
    clean = with_dictionaries(subject, clean)
    n_layers = model.config.n_layers
    return Trace(
        layout=layout,
        clean=clean,
        counterfactual=counterfactual,
        unpaired=unpaired,
        gradients=Gradients(found[0], found[1 : 1 + n_layers], found[1 + n_layers :]),
        attention_in=tuple(x.detach() for x in attention_in),
        attention_scale=tuple(attention_scale),
        mlp_scale=tuple(mlp_scale),
        final_scale=model.norm_final.scale(resid.detach()),
        metric=metric.detach(),
        donor_metrics=(_metric(counterfactual.logits, batch), _metric(unpaired.logits, batch)),
        metric_direction=direction,
    )


def with_dictionaries(subject: Subject, run: Activations) -> Activations:
    """Split the MLP outputs of the layers that have a dictionary into features, error and skip path."""
    features: dict[int, Tensor] = {}
    errors: dict[int, Tensor] = {}
    skips: dict[int, Tensor] = {}
    for layer, dictionary in subject.dictionaries.items():
        x = run.mlp_in[layer]
        features[layer] = dictionary.encode(x)
        errors[layer] = run.mlp_out[layer] - dictionary.decode(features[layer], x)
        if dictionary.w_skip is not None:
            skips[layer] = x @ dictionary.w_skip
    return replace(run, features=features, errors=errors, skips=skips)


def _metric(logits: Float[Tensor, "batch answer vocab"], batch: PromptBatch) -> Float[Tensor, " batch"]:
    right = logits.gather(-1, batch.answers[..., None])[..., 0]
    return (right - logits.gather(-1, batch.foils).mean(-1)).sum(-1)
