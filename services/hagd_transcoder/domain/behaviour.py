"""Train for circuits: run the model with only a random prefix of the features live, and ask for its own answer.

Everything outside the prefix (the other features and the MLP errors) takes the values of another prompt, all heads
and tokens stay live, and the loss is KL(M || M_prefix) at the answer positions: the headline of verification, on the
training prompts. Prefix sizes are log-uniform, so the first features learn to carry the behaviour and every prefix
is a circuit by construction.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from hagd.dictionaries.dictionary import Dictionary
from hagd.interventions.activations import Activations, Subject
from hagd.interventions.engine import run_circuit
from hagd.interventions.gates import Gates
from hagd.models.attention import project_heads
from hagd.models.language_model import LanguageModel
from hagd_transcoder.domain.discovery import Sample, causal_positions


def draw_prefix(smallest: int, n_features: int, generator: torch.Generator) -> int:
    """Draw a prefix size between `smallest` and all features, log-uniform."""
    where = float(torch.rand((), generator=generator))
    return round(smallest * math.exp(where * math.log(n_features / smallest)))


def behaviour_loss(
    model: LanguageModel,
    sample: Sample,
    dictionaries: Mapping[int, Dictionary],
    features: Mapping[int, Float[Tensor, "batch causal d_feature"]],
    prefixes: Mapping[int, int],
    shift: int,
) -> Float[Tensor, ""]:
    """Give the mean KL in nats.

    Args:
        features: each dictionary's features in the plain run at `causal_positions`, with gradients: donors are
            made of them.
        prefixes: how many features of each layer stay live.
        shift: the donor of prompt i is prompt i + shift.
    """
    last = model.config.n_layers - 1
    if set(dictionaries) == {last}:
        logits = run_last_layer(model, sample, dictionaries[last], features[last], prefixes[last], shift)
    else:
        logits = run_prefixes(model, sample, dictionaries, features, prefixes, shift)
    return functional.kl_div(
        functional.log_softmax(logits, dim=-1).flatten(0, 1),
        functional.log_softmax(sample.activations.logits, dim=-1).flatten(0, 1),
        log_target=True,
        reduction="batchmean",
    )


def run_last_layer(
    model: LanguageModel,
    sample: Sample,
    dictionary: Dictionary,
    features: Float[Tensor, "batch causal d_feature"],
    prefix: int,
    shift: int,
) -> Float[Tensor, "batch answer vocab"]:
    """Give the logits where only the last layer has a dictionary.

    What its MLP reads is then that of the plain run, so `r = MLP(h) - (what the prefix writes)` says it all: the
    residual changes by r(donor) - r(prompt). Equal to `run_prefixes`, at a third of the cost.
    """
    plain, layout = sample.activations, sample.prompts.layout
    at = list(layout.answer_positions)
    place = sorted(set(at))
    written = features[..., :prefix] @ dictionary.w_dec[:prefix]
    if dictionary.w_skip is not None:
        written = written + plain.mlp_in[-1][:, place] @ dictionary.w_skip
    outside = plain.mlp_out[-1][:, place] - written
    changed = (outside.roll(-shift, 0) - outside)[:, [place.index(i) for i in at]]
    return model.logits(_final_residual(model, plain, at) + changed)


def _final_residual(model: LanguageModel, plain: Activations, at: list[int]) -> Float[Tensor, "batch answer d_model"]:
    positions = model.position_part(plain.embed.shape[1])
    resid = (plain.embed + positions)[:, at]
    for block, heads, out in zip(model.blocks, plain.heads, plain.mlp_out, strict=True):
        resid = resid + project_heads(block.attention, heads[:, at]) + out[:, at]
    return resid


def run_prefixes(
    model: LanguageModel,
    sample: Sample,
    dictionaries: Mapping[int, Dictionary],
    features: Mapping[int, Float[Tensor, "batch causal d_feature"]],
    prefixes: Mapping[int, int],
    shift: int,
) -> Float[Tensor, "batch answer vocab"]:
    """Give the logits of the prefixes run as a circuit in the real model."""
    layout = sample.prompts.layout
    subject = Subject(model, dictionaries)
    whole = {
        layer: _spread(kept, causal_positions(layout, layer, model.config.n_layers), len(layout.roles))
        for layer, kept in features.items()
    }
    donor = _donor(sample.activations, dictionaries, whole, shift)
    gates = _gates(subject, len(layout.roles), prefixes)
    return run_circuit(subject, sample.prompts.clean, layout.answer_positions, donor, gates).logits


def _spread(
    kept: Float[Tensor, "batch causal d_feature"], causal: Int[Tensor, " causal"], n_pos: int
) -> Float[Tensor, "batch pos d_feature"]:
    """Put features back to their positions; the engine never reads the others."""
    if len(causal) == n_pos:
        return kept
    return kept.new_zeros(kept.shape[0], n_pos, kept.shape[2]).index_copy(1, causal, kept)


def _donor(
    plain: Activations,
    dictionaries: Mapping[int, Dictionary],
    features: Mapping[int, Float[Tensor, "batch pos d_feature"]],
    shift: int,
) -> Activations:
    """Give the plain run, each prompt's place taken by its donor's. Errors are no node of a prefix: zeros will do."""
    whole = replace(
        plain,
        patterns=(),
        features=features,
        errors={layer: torch.zeros_like(plain.mlp_out[layer]) for layer in dictionaries},
        skips={layer: plain.mlp_in[layer] @ d.w_skip for layer, d in dictionaries.items() if d.w_skip is not None},
    )
    return whole.map(lambda value: value.roll(-shift, 0))


def _gates(subject: Subject, n_pos: int, prefixes: Mapping[int, int]) -> Gates:
    """Open all heads and tokens, skip paths, MLPs without a dictionary, and the first features of each layer."""
    full = Gates.full(subject, n_pos, 1.0)
    features = {
        layer: (torch.arange(gate.shape[-1]) < prefixes[layer]).to(gate.dtype).expand_as(gate)
        for layer, gate in full.features.items()
    }
    return replace(full, features=features, errors=torch.zeros_like(full.errors))
