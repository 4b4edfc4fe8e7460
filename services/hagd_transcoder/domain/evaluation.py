"""What is reported about trained dictionaries, on the held-out prompts of D_select.

Positions where an MLP cannot reach a judged logit (see `causal_positions`) are left out of `fvu` and `l0` and enter
`fvu_everywhere`. Cross-entropy and KL are those of the model with all MLPs replaced at once.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hagd.dictionaries.dictionary import Dictionary
from hagd.dictionaries.least_squares import LeastSquares
from hagd.dictionaries.metrics import (
    cross_entropy,
    divergence,
    fires,
    fraction_unexplained,
    mean_active,
    recovered_share,
)
from hagd.errors import NonFiniteError
from hagd.interventions.activations import Activations, Subject, record
from hagd.interventions.engine import run_circuit
from hagd.interventions.gates import Gates
from hagd.models.language_model import LanguageModel
from hagd.tasks.task import PromptBatch, Task
from hagd_transcoder.domain.discovery import causal_positions

MOST_TOKENS = 3072
"""Tokens of each split that are looked at, per layout."""


@torch.no_grad()
def evaluate(subject: Subject, task: Task) -> dict[str, Any]:
    """Measure dictionaries on D_select (on D_discover where D_select is empty) as JSON content.

    Raises:
        NonFiniteError: a dictionary gives NaN or infinity.
    """
    split = "select" if task.size("select") else "discover"
    held_out = [_first(batch) for batch in task.batches[split]]
    runs = [_record(subject, batch) for batch in held_out]
    train = [_first(batch) for batch in task.batches["discover"]]
    train_runs = [_record(Subject(subject.model), batch) for batch in train]
    layers = [
        _evaluate_layer(subject.model, dictionary, (held_out, runs), (train, train_runs))
        for _, dictionary in sorted(subject.dictionaries.items())
    ]
    return {
        "split": split,
        "n_prompts": sum(map(len, held_out)),
        "layers": layers,
        **_replaced(subject, held_out, runs),
    }


def _first(batch: PromptBatch) -> PromptBatch:
    return batch.take(torch.arange(min(len(batch), MOST_TOKENS // len(batch.layout.roles))))


def _record(subject: Subject, batch: PromptBatch) -> Activations:
    return record(subject, batch.clean, batch.layout.answer_positions, keep_mlp_in=True)


def _rows(
    model: LanguageModel, layer: int, batches: Sequence[PromptBatch], values: Sequence[Tensor], *, everywhere: bool
) -> Tensor:
    """Flatten one tensor per batch to rows, at the positions that matter or at all."""
    picked = [
        (value if everywhere else value[:, causal_positions(batch.layout, layer, model.config.n_layers)]).flatten(0, 1)
        for batch, value in zip(batches, values, strict=True)
    ]
    return torch.cat(picked)


def _evaluate_layer(
    model: LanguageModel,
    dictionary: Dictionary,
    held_out: tuple[Sequence[PromptBatch], Sequence[Activations]],
    train: tuple[Sequence[PromptBatch], Sequence[Activations]],
) -> dict[str, Any]:
    layer = dictionary.layer

    def rows(source: tuple[Sequence[PromptBatch], Sequence[Activations]], everywhere: bool) -> tuple[Tensor, Tensor]:
        batches, runs = source
        x = _rows(model, layer, batches, [run.mlp_in[layer] for run in runs], everywhere=everywhere)
        return x, _rows(model, layer, batches, [run.mlp_out[layer] for run in runs], everywhere=everywhere)

    x, out = rows(held_out, False)
    features = dictionary.encode(x)
    x_all, out_all = rows(held_out, True)
    features_all = dictionary.encode(x_all)
    train_x, train_out = rows(train, False)
    fit = LeastSquares.empty(train_x.shape[1], train_out.shape[1])
    fit.add(train_x, train_out)
    weight, bias = fit.solve()
    live = fires(dictionary.encode(train_x)) | fires(features)
    found = {
        "layer": layer,
        "kind": dictionary.kind,
        "n_features": dictionary.n_features,
        "k": dictionary.k,
        "fvu": fraction_unexplained(out, dictionary.decode(features, x)),
        "fvu_everywhere": fraction_unexplained(out_all, dictionary.decode(features_all, x_all)),
        "fvu_linear": fraction_unexplained(out.double(), x.double() @ weight + bias),
        "l0": mean_active(features),
        "live": int(live.sum()),
        "dead_share": 1 - float(live.double().mean()),
    }
    for name in ("fvu", "fvu_everywhere", "fvu_linear"):
        if not torch.isfinite(torch.tensor(found[name])):
            raise NonFiniteError(f"{name} of layer {layer} is {found[name]}", "train longer or lower the learning rate")
    return found


def _replaced(subject: Subject, batches: Sequence[PromptBatch], runs: Sequence[Activations]) -> dict[str, Any]:
    """Give cross-entropy, its recovered share, and KL with dictionaries in place of all their MLPs."""
    plain, replaced, answers, without = [], [], [], []
    for batch, run in zip(batches, runs, strict=True):
        n_pos, at = len(batch.layout.roles), batch.layout.answer_positions
        full = Gates.full(subject, n_pos, 1.0)
        only = replace(full, errors=torch.zeros_like(full.errors))
        replaced.append(run_circuit(subject, batch.clean, at, run, only, errors="zero").logits)
        bare = Subject(subject.model)
        nothing = Gates.full(bare, n_pos, 1.0)
        closed = replace(nothing, mlps=nothing.mlps * ~full.refined)
        without.append(run_circuit(bare, batch.clean, at, run.zero(bare), closed).logits)
        plain.append(run.logits)
        answers.append(batch.answers)
    losses = [_pooled(logits, answers) for logits in (plain, replaced, without)]
    weights = [len(batch) for batch in batches]
    kl = sum(w * divergence(p, r) for w, p, r in zip(weights, plain, replaced, strict=True)) / sum(weights)
    names = ("cross_entropy", "cross_entropy_replaced", "cross_entropy_without_mlps")
    share = recovered_share(*losses)
    return {**dict(zip(names, losses, strict=True)), "cross_entropy_recovered": share, "kl_nats": kl}


def _pooled(logits: Sequence[Tensor], answers: Sequence[Tensor]) -> float:
    """Average the cross-entropy over prompts of several layouts."""
    sizes = [len(answer) for answer in answers]
    return sum(n * cross_entropy(x, y) for n, x, y in zip(sizes, logits, answers, strict=True)) / sum(sizes)
