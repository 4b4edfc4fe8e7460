"""Circuits inside training are those of verification."""

import math

import torch

from hagd.interventions.activations import Subject, record
from hagd_transcoder.dictionaries import make_plan
from hagd_transcoder.domain.behaviour import behaviour_loss, draw_prefix, run_last_layer, run_prefixes
from hagd_transcoder.domain.discovery import Discovery, Sample, causal_positions, other_positions
from hagd_transcoder.domain.learner import Learner, start_learner
from hagd_transcoder.handlers import TranscoderConfig
from unit.hagd_transcoder.tiny_subjects import AT, D_MLP, N_POS, tiny_batch, tiny_model


def prepared(n_layers: int, skip: bool = False) -> tuple[Discovery, Sample, dict[int, Learner]]:
    model = tiny_model(n_layers)
    discovery = Discovery(model, [tiny_batch(13)])
    plan = make_plan(TranscoderConfig(skip=skip, k=5), model, 13, N_POS)
    sample, generator = discovery.first(13), torch.Generator().manual_seed(0)
    learners = {
        layer: start_learner(plan, model.blocks[layer].mlp, layer, sample.activations.mlp_in[layer], generator)
        for layer in plan.layers
    }
    if skip:
        with torch.no_grad():
            for learner in learners.values():
                learner.tensors["w_skip"].normal_(generator=generator)
    return discovery, sample, learners


def features_of(sample: Sample, learners: dict[int, Learner], k: int) -> dict[int, torch.Tensor]:
    found: dict[int, torch.Tensor] = {}
    for layer, learner in learners.items():
        causal = causal_positions(sample.prompts.layout, layer, len(learners))
        found[layer] = learner.activate(sample.activations.mlp_in[layer][:, causal], k)[1]
    return found


def test_the_closed_form_of_the_last_layer_equals_the_circuit_run_in_the_model() -> None:
    for skip in (False, True):
        discovery, sample, learners = prepared(1, skip)
        dictionary, features = learners[0].dictionary(5), features_of(sample, learners, 5)
        quick = run_last_layer(discovery.model, sample, dictionary, features[0], 3, shift=2)
        real = run_prefixes(discovery.model, sample, {0: dictionary}, features, {0: 3}, shift=2)
        torch.testing.assert_close(quick, real, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(quick, sample.activations.logits, atol=1e-2)


def test_both_forms_have_the_same_gradients() -> None:
    discovery, sample, learners = prepared(1)
    gradients: list[torch.Tensor] = []
    for quick in (True, False):
        dictionary, features = learners[0].dictionary(5), features_of(sample, learners, 5)
        if quick:
            logits = run_last_layer(discovery.model, sample, dictionary, features[0], 3, shift=2)
        else:
            logits = run_prefixes(discovery.model, sample, {0: dictionary}, features, {0: 3}, shift=2)
        gradients.append(torch.autograd.grad(logits[..., 7].square().sum(), learners[0].tensors["w_enc"])[0])
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-3)


def test_with_every_feature_of_an_exact_dictionary_live_the_model_answers_itself() -> None:
    discovery, sample, learners = prepared(3)
    dictionaries = {layer: learner.dictionary(D_MLP) for layer, learner in learners.items()}
    features = features_of(sample, learners, D_MLP)
    everything, few = (dict.fromkeys(learners, n) for n in (D_MLP, 2))
    arguments = (discovery.model, sample, dictionaries, features)
    assert behaviour_loss(*arguments, everything, 1).item() < 1e-4
    assert behaviour_loss(*arguments, few, 1).item() > 1e-2


def test_prefixes_are_log_uniform_between_the_smallest_and_all() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.tensor([draw_prefix(8, 128, generator) for _ in range(2000)])
    assert (int(drawn.min()), int(drawn.max())) == (8, 128)
    assert abs(float(drawn.double().log().mean()) - math.log(32)) < 0.05


def test_the_last_layer_matters_at_the_answers_and_earlier_ones_up_to_the_last_answer() -> None:
    layout = tiny_batch(2).layout
    assert causal_positions(layout, 1, 2).tolist() == list(AT)
    assert other_positions(layout, 1, 2).tolist() == [0, 1, 3]
    assert causal_positions(layout, 0, 2).tolist() == [0, 1, 2, 3, 4]
    assert other_positions(layout, 0, 2).tolist() == []


def test_activations_are_the_same_recorded_once_or_at_each_draw() -> None:
    model, batch = tiny_model(2), tiny_batch(29)
    cached, streamed = Discovery(model, [batch]), Discovery(model, [batch], cache_bytes=0)
    first = cached.draw(7, torch.Generator().manual_seed(3))
    second = streamed.draw(7, torch.Generator().manual_seed(3))
    assert torch.equal(first.prompts.clean, second.prompts.clean)
    torch.testing.assert_close(first.activations.mlp_out[1], second.activations.mlp_out[1])
    plain = record(Subject(model), first.prompts.clean, AT)
    torch.testing.assert_close(first.activations.logits, plain.logits)
