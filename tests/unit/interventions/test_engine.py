"""The engine against its definition: closed cases first, then hooks on the original module, node by node."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from torch import Tensor

from hagd.dictionaries.dictionary import Dictionary, neurons_of
from hagd.errors import InvalidInputError
from hagd.interventions.activations import Activations, Subject, record
from hagd.interventions.engine import CircuitRun, run_circuit
from hagd.interventions.gates import Gates
from hagd.models.architectures import convert
from hagd.models.language_model import LanguageModel
from hagd.models.weights import from_tensors, named_tensors
from unit.interventions.hooked import HookedRun, hooked_circuit, hooked_record
from unit.models.tiny_models import N_LAYERS, random_tokens, tiny_gpt2, tiny_llama, tiny_neox

N_POS, N_PROMPTS, ANSWERS = 7, 5, (6, 3)
ERROR_SETTINGS = ("corrupted", "zero", "live")


def random_dictionary(
    model: LanguageModel, layer: int, kind: str, n_features: int, k: int | None, skip: bool
) -> Dictionary:
    """A dictionary of nobody's MLP: its error is large, so that a mistake in an error path shows."""
    generator = torch.Generator().manual_seed(layer + n_features)
    d_model = model.config.d_model

    def noise(*shape: int) -> Tensor:
        return 0.3 * torch.randn(shape, generator=generator)

    gated = kind == "gated"
    return Dictionary(
        kind="gated" if gated else "transcoder",
        layer=layer,
        activation="silu" if gated else "relu",
        k=k,
        w_gate=noise(d_model, n_features) if gated else None,
        b_gate=noise(n_features) if gated else None,
        w_enc=noise(d_model, n_features),
        b_enc=noise(n_features),
        w_dec=noise(n_features, d_model),
        b_dec=noise(d_model),
        w_skip=noise(d_model, d_model) if skip else None,
    )


def learned(model: LanguageModel) -> dict[int, Dictionary]:
    return {
        0: random_dictionary(model, 0, "transcoder", 11, 5, skip=False),
        1: random_dictionary(model, 1, "gated", 13, 5, skip=True),
        2: random_dictionary(model, 2, "transcoder", 17, None, skip=True),
    }


def one_layer(model: LanguageModel) -> dict[int, Dictionary]:
    return {1: random_dictionary(model, 1, "gated", 13, 7, skip=False)}


def own_neurons(model: LanguageModel) -> dict[int, Dictionary]:
    return {layer: neurons_of(block.mlp, layer) for layer, block in enumerate(model.blocks)}


DICTIONARIES: dict[str, Callable[[LanguageModel], dict[int, Dictionary]]] = {
    "blocks": lambda _: {},
    "learned": learned,
    "one-layer": one_layer,
    "neurons": own_neurons,
}


@dataclass(frozen=True)
class Case:
    """One tiny model with its dictionaries, clean prompts, and donors by both accounts."""

    module: torch.nn.Module
    subject: Subject
    tokens: Tensor
    clean: Activations
    donor: Activations
    hooked_donor: HookedRun

    def run(self, gates: Gates, **options) -> CircuitRun:
        return run_circuit(self.subject, self.tokens, ANSWERS, self.donor, gates, **options)

    def hooked(self, gates: Gates, **options) -> Tensor:
        dictionaries = self.subject.dictionaries
        logits = hooked_circuit(self.module, dictionaries, self.tokens, self.hooked_donor, gates, **options)
        return logits[:, list(ANSWERS)]


ARCHITECTURES: dict[str, Callable[[], torch.nn.Module]] = {
    "gpt2": tiny_gpt2,
    "llama": lambda: tiny_llama(bias=True),
    "neox": tiny_neox,
}


@cache
def build(architecture: str, dictionaries: str) -> Case:
    module = ARCHITECTURES[architecture]()
    model = convert(module)
    subject = Subject(model, DICTIONARIES[dictionaries](model))
    tokens, donors = random_tokens(N_PROMPTS, N_POS, seed=3), random_tokens(N_PROMPTS, N_POS, seed=4)
    return Case(
        module,
        subject,
        tokens,
        record(subject, tokens, ANSWERS, keep_patterns=True, keep_mlp_in=True),
        record(subject, donors, ANSWERS, keep_patterns=True, keep_mlp_in=True),
        hooked_record(module, donors),
    )


@pytest.fixture(params=[(a, d) for a in ARCHITECTURES for d in DICTIONARIES], ids="-".join)
def case(request) -> Case:
    return build(*request.param)


def random_gates(subject: Subject, seed: int, *, share: float = 0.5, refine: float = 0.7, whole: float = 0.0) -> Gates:
    """Boolean gates; a random part of the places with a dictionary is refined, the rest are blocks."""
    generator = torch.Generator().manual_seed(seed)
    full = Gates.full(subject, N_POS, 1.0)
    refined = full.refined & (torch.rand(full.refined.shape, generator=generator) < refine)
    drawn = Gates.full(subject, N_POS, 1.0, refined).map(
        lambda gate: gate * (torch.rand(gate.shape, generator=generator) < share)
    )
    live_blocks = refined & (torch.rand(refined.shape, generator=generator) < whole)
    return replace(drawn, mlps=drawn.mlps + live_blocks * (1 - drawn.mlps))


def stack(many: list[Gates]) -> Gates:
    """Several circuits as one, along a leading axis that broadcasts over prompts."""
    layers = many[0].features
    return Gates(
        tokens=torch.stack([g.tokens for g in many])[:, None],
        heads=torch.stack([g.heads for g in many])[:, None],
        mlps=torch.stack([g.mlps for g in many])[:, None],
        features={layer: torch.stack([g.features[layer] for g in many])[:, None] for layer in layers},
        errors=torch.stack([g.errors for g in many])[:, None],
        skips=torch.stack([g.skips for g in many])[:, None],
        refined=many[0].refined,
    )


def close(ours: Tensor, expected: Tensor, tolerance: float = 1e-5) -> bool:
    return bool((ours - expected).abs().max() <= tolerance * expected.abs().max())


def test_the_whole_model_as_a_circuit_is_the_clean_run(case) -> None:
    assert close(case.run(Gates.full(case.subject, N_POS, 1.0)).logits, case.clean.logits)


def test_the_whole_model_in_blocks_is_the_clean_run(case) -> None:
    nothing_refined = torch.zeros(N_LAYERS, N_POS, dtype=torch.bool)
    gates = Gates.full(case.subject, N_POS, 1.0, nothing_refined)
    assert close(case.run(gates).logits, case.clean.logits)


def test_the_empty_circuit_is_exactly_the_donors_run(case) -> None:
    assert torch.equal(case.run(Gates.full(case.subject, N_POS, 0.0)).logits, case.donor.logits)


def test_the_empty_circuit_on_mixed_donors_is_exactly_those_donors(case) -> None:
    index = torch.tensor([3, 0, 4, 1, 2])
    gates = Gates.full(case.subject, N_POS, 0.0)
    logits = run_circuit(case.subject, case.tokens, ANSWERS, case.donor.take(index), gates).logits
    assert torch.equal(logits, case.donor.logits[index])


@pytest.mark.parametrize(
    ("errors", "share", "whole"),
    [("corrupted", 0.5, 0.0), ("corrupted", 0.1, 0.3), ("zero", 0.5, 0.3), ("live", 0.5, 0.3)],
)
def test_a_random_circuit_agrees_with_hooks_on_the_original(case, errors, share, whole) -> None:
    gates = random_gates(case.subject, seed=int(100 * share), share=share, whole=whole)
    assert close(case.run(gates, errors=errors).logits, case.hooked(gates, errors=errors))


def fractions(subject: Subject, seed: int) -> Gates:
    """Gates strictly between 0 and 1 on every node, blocks over refined MLPs included."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(like: Tensor) -> Tensor:
        return 0.2 + 0.6 * torch.rand(like.shape, generator=generator)

    gates = Gates.full(subject, N_POS, 1.0).map(lambda gate: gate * drawn(gate))
    return replace(gates, mlps=drawn(gates.mlps))


@pytest.mark.parametrize("errors", ERROR_SETTINGS)
def test_gates_between_zero_and_one_interpolate_node_outputs(case, errors) -> None:
    gates = fractions(case.subject, seed=7)
    assert close(case.run(gates, errors=errors).logits, case.hooked(gates, errors=errors))


def test_frozen_attention_agrees_with_hooks_on_the_original(case) -> None:
    gates = random_gates(case.subject, seed=0)
    ours = case.run(gates, patterns=case.clean.patterns).logits
    assert close(ours, case.hooked(gates, patterns=case.clean.patterns))
    assert not close(ours, case.run(gates).logits, 1e-3)


def test_every_single_kind_of_node_agrees_with_hooks_on_the_original(case) -> None:
    """One kind live at a time, so that a mistake cannot hide behind another kind."""
    empty, full = Gates.full(case.subject, N_POS, 0.0), Gates.full(case.subject, N_POS, 1.0)
    for kind in ("tokens", "heads", "mlps", "features", "errors", "skips"):
        gates = replace(empty, **{kind: getattr(full, kind)})
        assert close(case.run(gates).logits, case.hooked(gates)), kind


def test_errors_settings_differ_where_errors_exist() -> None:
    case = build("llama", "learned")
    gates = random_gates(case.subject, seed=5)
    corrupted, zero, live = (case.run(gates, errors=errors).logits for errors in ERROR_SETTINGS)
    assert not close(corrupted, zero, 1e-3)
    assert not close(corrupted, live, 1e-3)
    assert not close(zero, live, 1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_with_exact_dictionaries_errors_make_no_difference(architecture) -> None:
    case = build(architecture, "neurons")
    gates = random_gates(case.subject, seed=5)
    corrupted, zero, live = (case.run(gates, errors=errors).logits for errors in ERROR_SETTINGS)
    assert close(corrupted, zero) and close(corrupted, live)


@pytest.mark.parametrize(
    ("errors", "frozen"), [("corrupted", False), ("corrupted", True), ("zero", False), ("live", False)]
)
def test_several_circuits_at_once_equal_one_at_a_time(case, errors, frozen) -> None:
    first = random_gates(case.subject, seed=11)
    many = [first] + [replace(random_gates(case.subject, seed, refine=2.0), refined=first.refined) for seed in (12, 13)]
    many = [first, *(masked(gates, first.refined) for gates in many[1:])]
    options = {"errors": errors, "patterns": case.clean.patterns if frozen else None}
    together = case.run(stack(many), **options).logits
    assert together.shape == (3, N_PROMPTS, len(ANSWERS), case.subject.model.config.vocab_size)
    for gates, logits in zip(many, together, strict=True):
        assert close(logits, case.run(gates, **options).logits)


def masked(gates: Gates, refined: Tensor) -> Gates:
    """Keep only the gates that exist where `refined` says which MLPs are resolved."""
    return replace(
        gates,
        mlps=gates.mlps * ~refined,
        features={layer: gate * refined[layer, :, None] for layer, gate in gates.features.items()},
        errors=gates.errors * refined,
        skips=gates.skips * refined,
        refined=refined,
    )


@pytest.mark.parametrize(("start", "errors"), [(1, "corrupted"), (2, "corrupted"), (1, "zero"), (2, "live")])
def test_a_run_that_starts_from_a_shared_prefix_equals_one_from_scratch(case, start, errors) -> None:
    gates = random_gates(case.subject, seed=17)
    other = masked(random_gates(case.subject, seed=18, refine=2.0), gates.refined)

    def graft(below: Tensor, above: Tensor) -> Tensor:
        return torch.cat([below[:start], above[start:]])

    changed = replace(
        gates,
        heads=graft(gates.heads, other.heads),
        mlps=graft(gates.mlps, other.mlps),
        errors=graft(gates.errors, other.errors),
        skips=graft(gates.skips, other.skips),
        features={layer: gate if layer < start else other.features[layer] for layer, gate in gates.features.items()},
    )
    base = case.run(gates, errors=errors)
    continued = case.run(changed, errors=errors, start=start, base=base)
    scratch = case.run(changed, errors=errors)
    assert torch.equal(continued.logits, scratch.logits)
    assert all(map(torch.equal, continued.residuals, scratch.residuals))
    assert len(continued.residuals) == N_LAYERS


def test_several_circuits_continue_from_one_shared_prefix(case) -> None:
    gates = random_gates(case.subject, seed=19)
    base = case.run(gates)
    variants = []
    for head in range(3):
        heads = gates.heads.clone()
        heads[1:, :, head] = 1 - heads[1:, :, head]
        variants.append(replace(gates, heads=heads))
    together = case.run(stack(variants), start=1, base=base).logits
    for variant, logits in zip(variants, together, strict=True):
        assert close(logits, case.run(variant).logits)


def test_starting_late_without_a_prefix_is_refused(case) -> None:
    with pytest.raises(InvalidInputError, match="needs the run it continues"):
        case.run(Gates.full(case.subject, N_POS, 1.0), start=1)


def test_positions_after_the_last_answer_do_not_matter(case) -> None:
    """Causality: gates and donors to the right of an answer position cannot reach it."""
    gates = random_gates(case.subject, seed=23)
    right = torch.arange(N_POS) > 3
    flipped = replace(
        gates,
        tokens=torch.where(right, 1 - gates.tokens, gates.tokens),
        heads=torch.where(right[:, None], 1 - gates.heads, gates.heads),
    )
    first, second = case.run(gates).logits, case.run(flipped).logits
    assert close(second[:, 1], first[:, 1])
    assert not close(second[:, 0], first[:, 0], 1e-3)


@pytest.mark.parametrize("name", ["blocks", "learned", "neurons"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("errors", ERROR_SETTINGS)
def test_gradients_with_respect_to_gates_agree_with_differences(architecture, name, errors) -> None:
    case = double(build(architecture, name))
    generator = torch.Generator().manual_seed(29)
    gates = fractions(case.subject, seed=31).map(lambda gate: gate.double().requires_grad_())
    direction = torch.randn(case.clean.logits.shape, generator=generator, dtype=torch.float64)
    (case.run(gates, errors=errors).logits * direction).sum().backward()
    step = 1e-6
    for which, gate in enumerate(gates.tensors()):
        way = torch.randn(gate.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            high, low = (nudge(gates, which, sign * step * way) for sign in (1, -1))
            difference = case.run(high, errors=errors).logits - case.run(low, errors=errors).logits
        numeric = (difference * direction).sum() / (2 * step)
        analytic = 0.0 if gate.grad is None else (gate.grad * way).sum()
        assert abs(numeric - analytic) <= 1e-5 * max(1.0, abs(analytic)), which
    assert gates.tokens.grad is not None and gates.heads.grad is not None and gates.mlps.grad is not None


def nudge(gates: Gates, which: int, change: Tensor) -> Gates:
    """Add `change` to one gate tensor, counted in the order of `Gates.tensors`."""
    counter = iter(range(len(gates.tensors())))
    layers = sorted(gates.features)
    values = [t.detach() + change if next(counter) == which else t.detach() for t in gates.tensors()]
    names = ("tokens", "heads", "mlps", "errors", "skips")
    features = dict(zip(layers, values[len(names) :], strict=True))
    return replace(gates, **dict(zip(names, values, strict=False)), features=features)


def double(case: Case) -> Case:
    """The same case in float64."""
    model = from_tensors(
        case.subject.model.config, {name: t.double() for name, t in named_tensors(case.subject.model).items()}
    )
    dictionaries = {
        layer: replace(d, **{n: v.double() for n, v in vars(d).items() if isinstance(v, Tensor)})
        for layer, d in case.subject.dictionaries.items()
    }
    subject = Subject(model, dictionaries)
    donors = random_tokens(N_PROMPTS, N_POS, seed=4)
    return replace(
        case,
        subject=subject,
        clean=record(subject, case.tokens, ANSWERS),
        donor=record(subject, donors, ANSWERS),
    )
