"""How much of what decides the next token goes past the dictionaries, on held-out prompts that are traced.

FVU counts every direction of an MLP's output alike; what the logits hear is another matter. Two views of that:
influence, of which completeness is the share that features and tokens account for where nodes are read, and credit
(gradient times activation in the model as it is), of which some belongs to errors.

The control keeps everything but the meaning of features: their decoders are exchanged within each layer, so as many
fire as strongly and write as much, but elsewhere; biases and skip paths stay. What it reaches, any sparse code does.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hagd.attribution.credit import assign_credit
from hagd.attribution.explained import explain
from hagd.attribution.frozen import freeze
from hagd.attribution.replacement import Replacement
from hagd.attribution.targets import LogitChoice, likeliest
from hagd.corpora.corpus import Windows
from hagd.dictionaries.cross_layer import CrossLayerTranscoder, Dictionaries
from hagd.models.language_model import LanguageModel
from hagd.pipeline.contract import StageContext
from hagd.tasks.splits import generator_for
from hagd_transcoder.domain.corpus_training import windows_of_step
from hagd_transcoder.domain.intervals import drawn_ratios, interval

TRACED_TOKENS: Final = 16
"""Tokens of a prompt: the beginning of a window."""
TRACED_ROWS: Final = 32
"""Features of a layer that stand for all that are active on a prompt."""
_PLAIN: Final = 1
"""First positions that are left out: they are unlike all others, and no dictionary was trained there."""
_TOGETHER: Final = ("completeness", "replacement", "error_credit")


@dataclass(frozen=True)
class Traced:
    """What was measured, as JSON content."""

    layers: Mapping[int, Mapping[str, Any]]
    together: Mapping[str, Any]


def trace_prompts(
    model: LanguageModel,
    dictionaries: Dictionaries,
    held_out: Windows,
    prompts: int,
    context: StageContext,
    seed: int = 0,
) -> Traced:
    """Trace the beginnings of drawn windows to their likeliest next tokens, with the dictionaries and the control.

    All that an MLP without a dictionary writes is error. Of the influence of a layer, errors have the part
    `error_influence`; of its credit, `error_credit`. Every prompt counts alike.

    Raises:
        NonFiniteError: what was frozen does not add up to the run.
    """
    numbers = windows_of_step(len(held_out), min(prompts, len(held_out)), 0, seed)
    documents = held_out.documents()[numbers]
    ours, theirs = Replacement(dictionaries, model), Replacement(exchanged(dictionaries, seed), model)
    found: dict[str, list[dict[str, Tensor]]] = {"": [], "_control": []}
    for done, number in enumerate(numbers.tolist()):
        context.progress(done, len(numbers), f"tracing held-out prompts, {done} of {len(numbers)}")
        tokens = held_out.batch([number]).tokens[0, :TRACED_TOKENS]
        for kind, replacement in (("", ours), ("_control", theirs)):
            found[kind].append(_trace(model, replacement, tokens, generator_for(seed, "traced", number)))
    layers: dict[int, dict[str, Any]] = {it: {} for it in range(ours.n_layers) if ours.has(it)}
    together: dict[str, Any] = {"n_traced": len(numbers), "n_traced_documents": len(documents.unique())}
    for kind, traces in found.items():
        for name in ("error_influence", "error_credit"):
            per_layer = torch.stack([trace[name] for trace in traces])
            for layer, values in layers.items():
                values |= _mean(name + kind, per_layer[:, layer], documents, seed)
        for name in _TOGETHER:
            together |= _mean(name + kind, torch.stack([it[name].mean() for it in traces]), documents, seed)
    return Traced(layers, together)


def exchanged(dictionaries: Dictionaries, seed: int) -> Dictionaries:
    """Give each feature the directions of the decoders of another one of its layer, at the lengths of its own.

    TopK compares lengths of decoders, if at all, so the same features are kept.
    """
    if isinstance(dictionaries, CrossLayerTranscoder):
        w_dec = tuple(exchange_decoders(it, layer, seed) for layer, it in enumerate(dictionaries.w_dec))
        return replace(dictionaries, w_dec=w_dec)
    return {layer: replace(it, w_dec=exchange_decoders(it.w_dec, layer, seed)) for layer, it in dictionaries.items()}


def exchange_decoders(
    w_dec: Float[Tensor, "*target d_feature d_model"], layer: int, seed: int
) -> Float[Tensor, "*target d_feature d_model"]:
    """Give the decoders of a layer exchanged, those of a feature for all that it writes to together."""
    norms = w_dec.norm(dim=-1, keepdim=True)
    order = torch.randperm(w_dec.shape[-2], generator=generator_for(seed, "exchanged", layer))
    # A cycle through a random order: nobody keeps its own.
    other = torch.empty_like(order)
    other[order] = order.roll(1)
    tiny = torch.finfo(norms.dtype).tiny
    return w_dec[..., other, :] / norms[..., other, :].clamp_min(tiny) * norms


def _trace(
    model: LanguageModel, replacement: Replacement, tokens: Int[Tensor, " pos"], generator: torch.Generator
) -> dict[str, Float[Tensor, " layer"]]:
    frozen = freeze(model, replacement, tokens, plain=_PLAIN)
    targets = likeliest(frozen, LogitChoice())
    explained = explain(frozen, targets, TRACED_ROWS, generator, plain=_PLAIN)
    return {
        "completeness": torch.tensor([explained.completeness]),
        "replacement": torch.tensor([explained.replacement]),
        "error_influence": explained.error_influence,
        "error_credit": assign_credit(frozen, targets).error_share(_PLAIN).cpu(),
    }


def _mean(
    name: str, values: Float[Tensor, " prompt"], documents: Int[Tensor, " prompt"], seed: int
) -> dict[str, float | list[float]]:
    draws = drawn_ratios(values, torch.ones_like(values), documents, seed)
    return {name: float(values.double().mean()), f"{name}_ci95": interval(draws)}
