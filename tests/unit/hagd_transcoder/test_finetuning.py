"""Dictionaries that learn together: gradients by finite differences, what is exact stays exact, and what it is for."""

from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hagd.attribution.replacement import Replacement
from hagd.corpora.corpus import Batch
from hagd.dictionaries.dictionary import neurons_of
from hagd.dictionaries.history import history_from_document
from hagd.errors import CancelledError, InvalidInputError, NonFiniteError
from hagd.models.language_model import LanguageModel
from hagd.testing import RecordingContext
from hagd_transcoder.corpus_dictionaries import make_plan, run
from hagd_transcoder.corpus_handlers import read_config, resolve
from hagd_transcoder.domain.corpus_evaluation import divergence, evaluate_on_corpus, log_probabilities
from hagd_transcoder.domain.corpus_training import start_layers, windows_of_step
from hagd_transcoder.domain.finetuning import (
    differentiate,
    diverge,
    finetune_step,
    part_of,
    run_as_it_is,
    start_finetuning,
)
from hagd_transcoder.domain.sparse.step import Encoder
from hagd_transcoder.domain.sparse.trainer import SparseTrainer
from unit.hagd_transcoder.test_corpus_training import CONFIG, MODEL, corpus, inputs, same_curves
from unit.hagd_transcoder.tiny_subjects import D_MLP, tiny_model

LONGER: dict[str, Any] = {
    **CONFIG,
    "n_features": 11,
    "k": 2,
    "tokens": 9000,
    "traced": 0,
    "finetune": 0.4,
    "finetune_batch": 60,
}


def in_double(tree: Any) -> Any:
    """Give a tree of weights in 64 bits."""
    if isinstance(tree, Tensor):
        return tree.double()
    if isinstance(tree, tuple):
        return tuple(map(in_double, tree))
    if is_dataclass(tree) and not isinstance(tree, type):
        return replace(tree, **{it.name: in_double(getattr(tree, it.name)) for it in fields(tree)})
    return tree


def trainers_of(
    model: LanguageModel, layers: tuple[int, ...], encoder: Encoder, noise: float = 0.0
) -> dict[int, SparseTrainer]:
    """Give trainers that stand at the neurons, or near them."""
    found = {layer: SparseTrainer.start(neurons_of(model.blocks[layer].mlp, layer), 1.0, encoder) for layer in layers}
    generator = torch.Generator().manual_seed(3)
    for trainer in found.values():
        for tensor in trainer.weights.values():
            tensor += noise * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
    return found


def some_windows(count: int = 5) -> Batch:
    """Give windows of different lengths."""
    windows = corpus().windows("train")
    batch = windows.batch(range(count))
    assert len(batch.counted.sum(1).unique()) > 1
    return batch


@pytest.mark.parametrize("rule", ["topk", "batch-topk"])
@pytest.mark.parametrize("activation", ["silu", "gelu"])
@pytest.mark.parametrize("parallel", [False, True])
def test_gradients_are_those_of_finite_differences(activation: str, rule: Any, parallel: bool) -> None:
    tiny = in_double(tiny_model(n_layers=3, activation=activation))
    positions = None if tiny.pos_embed is None else tiny.pos_embed.repeat(2, 1)
    config = replace(tiny.config, n_positions=17, parallel_residual=parallel)
    model, batch = replace(tiny, config=config, pos_embed=positions), some_windows()
    trainers = trainers_of(model, (0, 2), Encoder(activation, k=3, rule=rule), noise=0.3)
    expected = run_as_it_is(model, batch, trainers, half=False)
    found, gradients = differentiate(model, part_of(batch), trainers, expected)
    assert found > 0.01
    generator, size = torch.Generator().manual_seed(4), 1e-6
    for layer, trainer in trainers.items():
        for name, tensor in trainer.weights.items():
            direction = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)

            def moved(by: float, layer: int = layer, name: str = name, way: Tensor = direction) -> float:
                weights = {it: dict(trainers[it].weights) for it in trainers}
                weights[layer][name] = weights[layer][name] + by * way
                return float(diverge(model, part_of(batch), trainers, weights, expected))

            slope = (moved(size) - moved(-size)) / (2 * size)
            assert float((gradients[layer][name] * direction).sum()) == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_the_divergence_is_what_is_measured_with_all_mlps_replaced() -> None:
    batch = some_windows()
    trainers = trainers_of(MODEL, (0, 1, 2), Encoder("silu", k=3), noise=0.3)
    found, _ = differentiate(MODEL, part_of(batch), trainers, run_as_it_is(MODEL, batch, trainers, half=False))
    dictionaries = {layer: trainer.dictionary(layer) for layer, trainer in trainers.items()}
    plain = log_probabilities(MODEL, batch, None, ())
    other = log_probabilities(MODEL, batch, Replacement(dictionaries, MODEL), dictionaries)
    assert found == pytest.approx(divergence(plain, other) / len(plain), rel=1e-5)


def test_neurons_diverge_by_nothing_and_are_a_place_to_stay() -> None:
    model, batch = in_double(MODEL), some_windows()
    trainers = trainers_of(model, (0, 1, 2), Encoder("silu", k=D_MLP))
    found, gradients = differentiate(model, part_of(batch), trainers, run_as_it_is(model, batch, trainers, half=False))
    assert abs(found) < 1e-12
    assert max(float(it.abs().max()) for weights in gradients.values() for it in weights.values()) < 1e-12


@torch.no_grad()
def test_the_divergence_falls_and_errors_stay_within_bounds() -> None:
    """On held-out text: beside the same dictionaries before, and beside those that learnt alone to the end."""
    train, held_out = corpus().windows("train"), corpus().windows("held-out")
    plan = make_plan(read_config(LONGER), MODEL, corpus())
    layers, weight = start_layers(MODEL, train, plan), 0.0
    trainers = layers.trainers

    def measured() -> dict[str, Any]:
        dictionaries = {layer: trainer.dictionary(layer) for layer, trainer in trainers.items()}
        return evaluate_on_corpus(MODEL, dictionaries, train, held_out, RecordingContext())

    before: dict[str, Any] = {}
    for step in range(plan.steps):
        batch = train.batch(windows_of_step(len(train), plan.windows, step, plan.seed))
        if step < plan.alone_steps:
            layers.step(MODEL, batch, plan, step)
            continue
        if step == plan.alone_steps:
            before, weight = measured(), start_finetuning(MODEL, batch, trainers, plan)
        finetune_step(MODEL, batch, trainers, plan, step, weight)
    after = measured()
    assert after["kl_nats"] < 0.92 * before["kl_nats"]
    for layer_before, layer_after in zip(before["layers"], after["layers"], strict=True):
        assert layer_after["fvu"] < 1.1 * layer_before["fvu"]
    alone = run(inputs(), {**LONGER, "finetune": 0.0}, RecordingContext())["dictionaries"].content["metrics"]
    assert after["kl_nats"] < 0.95 * alone["kl_nats"]
    together = run(inputs(), LONGER, RecordingContext())["dictionaries"].content["metrics"]
    assert together["kl_nats"] == after["kl_nats"]


def test_losses_count_at_first_as_they_are_asked_to() -> None:
    plan, batch = make_plan(read_config(LONGER), MODEL, corpus()), some_windows(4)
    trainers = trainers_of(MODEL, (0, 1, 2), Encoder("silu", k=3), noise=0.3)
    weight = start_finetuning(MODEL, batch, trainers, replace(plan, finetune_windows=4, finetune_weight=3.0))
    expected = run_as_it_is(MODEL, batch, trainers, half=False)
    found, _ = differentiate(MODEL, part_of(batch), trainers, expected)
    errors = 0.0
    for layer, trainer in trainers.items():
        dictionary, read = trainer.dictionary(layer), expected.read[layer]
        error = expected.written[layer] - dictionary.decode(dictionary.encode(read), read)
        errors += float(error.square().sum(1).mean())
    assert weight * found == pytest.approx(3 * errors, rel=1e-5)


def test_fine_tuning_that_was_stopped_goes_on_with_the_same_bytes() -> None:
    config = {**LONGER, "tokens": 1800}
    undisturbed = run(inputs(), config, RecordingContext())
    plan = make_plan(read_config(config), MODEL, corpus())
    stopped = RecordingContext(cancel_after=plan.steps - 1)
    with pytest.raises(CancelledError):
        run(inputs(), config, stopped)
    latest = max(stopped.checkpoints)
    assert plan.alone_steps < latest < plan.steps
    found = run(inputs(), config, RecordingContext(checkpoints=stopped.checkpoints))
    assert found["dictionaries"].encode() == undisturbed["dictionaries"].encode()
    same_curves(found["training"], undisturbed["training"])
    assert np.array_equal(found["training"].tensors["kl_nats"], undisturbed["training"].tensors["kl_nats"])


def test_the_divergence_is_recorded_where_dictionaries_learn_from_it() -> None:
    config = {**LONGER, "tokens": 1800}
    plan = make_plan(read_config(config), MODEL, corpus())
    found = history_from_document(run(inputs(), config, RecordingContext())["training"])
    assert (len(found.tokens), len(found.kl_nats)) == (plan.steps, plan.finetune_steps)
    assert (found.kl_nats > 0).all()
    alone = run(inputs(), {**config, "finetune": 0.0}, RecordingContext())["training"]
    assert "kl_nats" not in alone.tensors


def test_what_cannot_learn_together_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"shards is 2, but with corpus-transcoder\.finetune"):
        resolve({"finetune": 0.1, "shards": 2})
    with pytest.raises(InvalidInputError, match="only one step to divide"):
        run(inputs(), {**CONFIG, "tokens": 60, "finetune": 0.1}, RecordingContext())
    trainers, batch = trainers_of(MODEL, (0,), Encoder("silu", k=3)), some_windows()
    expected = run_as_it_is(MODEL, batch, trainers, half=False)
    trainers[0].weights["dec"][0] = float("nan")
    with pytest.raises(NonFiniteError, match="KL with all MLPs replaced"):
        differentiate(MODEL, part_of(batch), trainers, expected)
