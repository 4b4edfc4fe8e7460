"""What a recorded run promises: parts that add up, and donors of every kind that add up too."""

import pytest
import torch

from hagd.interventions.activations import Activations, Subject, record
from hagd.interventions.engine import run_circuit
from hagd.interventions.gates import Gates
from unit.interventions.hooked import encode, hooked_record
from unit.interventions.test_engine import ANSWERS, ARCHITECTURES, N_POS, Case, build, close


@pytest.fixture(params=[(a, d) for a in ARCHITECTURES for d in ("learned", "one-layer", "neurons")], ids="-".join)
def case(request) -> Case:
    return build(*request.param)


def parts_add_up(subject: Subject, run: Activations) -> bool:
    """Whether features, bias, skip and error of every dictionary sum to the MLP's output."""
    sums = []
    for layer, dictionary in subject.dictionaries.items():
        total = run.features[layer] @ dictionary.w_dec + dictionary.b_dec + run.errors[layer]
        sums.append(close(total + run.skips.get(layer, torch.zeros(())), run.mlp_out[layer]))
    return all(sums)


def test_the_parts_of_every_mlp_add_up_in_runs_and_in_all_donors(case) -> None:
    for run in (case.clean, case.donor, case.donor.mean(), case.donor.take(torch.tensor([2, 2, 0]))):
        assert parts_add_up(case.subject, run)


def test_zeroed_parts_add_up_and_leave_only_the_decoder_bias(case) -> None:
    zero = case.donor.zero(case.subject)
    assert parts_add_up(case.subject, zero)
    assert not zero.embed.any() and not any(heads.any() for heads in zero.heads)
    assert not any(part.any() for parts in (zero.features, zero.errors, zero.skips) for part in parts.values())
    for layer, out in enumerate(zero.mlp_out):
        dictionary = case.subject.dictionaries.get(layer)
        assert torch.equal(out[0, 0], torch.zeros_like(out[0, 0]) if dictionary is None else dictionary.b_dec)


def test_a_recorded_run_holds_what_the_original_computes(case) -> None:
    expected = hooked_record(case.module, case.tokens)
    assert close(case.clean.embed, expected.embed)
    for layer in range(len(expected.heads)):
        assert close(case.clean.heads[layer], expected.heads[layer])
        assert close(case.clean.mlp_in[layer], expected.mlp_in[layer])
        assert close(case.clean.mlp_out[layer], expected.mlp_out[layer])
    for layer, dictionary in case.subject.dictionaries.items():
        assert close(case.clean.features[layer], encode(dictionary, expected.mlp_in[layer]))


def test_recorded_patterns_are_those_of_the_original(case) -> None:
    with torch.no_grad():
        expected = case.module(case.tokens, output_attentions=True).attentions
    for ours, theirs in zip(case.clean.patterns, expected, strict=True):
        assert close(ours, theirs)


def test_patterns_and_mlp_inputs_are_kept_only_on_request(case) -> None:
    run = record(case.subject, case.tokens, ANSWERS)
    assert run.patterns == () and run.mlp_in == ()


@pytest.mark.parametrize("kind", ["mean", "zero"])
def test_mean_and_zero_donors_shared_by_all_prompts_equal_one_copy_for_each(case, kind) -> None:
    donor = case.donor.mean() if kind == "mean" else case.donor.zero(case.subject)
    copies = donor.map(lambda value: value.expand(len(case.tokens), *value.shape[1:]))
    gates = Gates.full(case.subject, N_POS, 1.0).map(
        lambda gate: gate * (torch.arange(gate.numel()) % 3 > 0).reshape(gate.shape)
    )
    shared = run_circuit(case.subject, case.tokens, ANSWERS, donor, gates).logits
    assert close(run_circuit(case.subject, case.tokens, ANSWERS, copies, gates).logits, shared)


def test_the_empty_circuit_on_the_mean_gives_every_prompt_the_same_logits(case) -> None:
    logits = run_circuit(
        case.subject, case.tokens, ANSWERS, case.donor.mean(), Gates.full(case.subject, N_POS, 0.0)
    ).logits
    assert (logits - logits[:1]).abs().max() == 0


def test_taking_prompts_reorders_every_field_and_leaves_shared_values_alone(case) -> None:
    index = torch.tensor([4, 1])
    taken = case.clean.take(index)
    assert torch.equal(taken.embed, case.clean.embed[index])
    assert torch.equal(taken.heads[1], case.clean.heads[1][index])
    assert torch.equal(taken.logits, case.clean.logits[index])
    mean = case.clean.mean()
    assert torch.equal(mean.take(index).mlp_out[0], mean.mlp_out[0])
