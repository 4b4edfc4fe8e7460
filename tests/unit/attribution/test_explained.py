"""Scores without a graph are those of the graph; credit is what an intervention in the model as it is gives."""

import dataclasses

import pytest
import torch
from torch import Tensor

from hagd.attribution.build import LocalGraphConfig, PromptText, build_local_graph, silent
from hagd.attribution.credit import assign_credit
from hagd.attribution.explained import explain, stand_ins
from hagd.attribution.frozen import FrozenPrompt, freeze
from hagd.attribution.replacement import Replacement
from hagd.attribution.targets import LogitChoice, Targets, likeliest
from hagd.graphs.local_influence import column_influence, score
from hagd.models.trunk import Passage, run_trunk
from unit.attribution.frozen_models import ARCHITECTURES, DICTIONARIES, N_LAYERS, TOKENS, frozen_prompt
from unit.hagd_coarsening.tiny import tiny_dictionary, tiny_model

ALL = 1000


def ends(frozen: FrozenPrompt) -> Targets:
    return likeliest(frozen, LogitChoice(0.8, 4))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", DICTIONARIES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_are_those_of_the_whole_graph(architecture: str, kind: str) -> None:
    frozen = frozen_prompt(architecture, kind)
    found = explain(frozen, ends(frozen), ALL, seeded(0))
    graph = build_local_graph(frozen, PromptText("", ()), ends(frozen), LocalGraphConfig(), silent)
    whole, influence = score(graph), torch.from_numpy(column_influence(graph)).double()
    assert found.completeness == pytest.approx(whole.completeness, rel=1e-5)
    assert found.replacement == pytest.approx(whole.replacement, rel=1e-5)
    errors = influence[graph.n_features : graph.n_features + graph.n_errors].view(N_LAYERS, -1).sum(1)
    features = torch.zeros(N_LAYERS, dtype=torch.float64)
    features.index_add_(0, torch.from_numpy(graph.features[:, 0]).long(), influence[: graph.n_features])
    torch.testing.assert_close(found.error_influence, errors / (errors + features), rtol=1e-5, atol=1e-7)


def test_what_is_written_at_plain_positions_counts_nowhere() -> None:
    model = tiny_model("llama", N_LAYERS)
    frozen = freeze(model, Replacement(DICTIONARIES["mixed"](model), model), TOKENS, plain=1)
    graph = build_local_graph(frozen, PromptText("", ()), ends(frozen), LocalGraphConfig(), silent)
    rows = graph.rows.copy()
    rows[:, graph.n_features : graph.n_features + graph.n_errors : graph.n_pos] = 0
    without = score(dataclasses.replace(graph, rows=rows))
    found = explain(frozen, ends(frozen), ALL, seeded(0), plain=1)
    assert found.completeness == pytest.approx(without.completeness, rel=1e-5)
    assert found.replacement == pytest.approx(without.replacement, rel=1e-5)
    assert without.completeness > score(graph).completeness


@pytest.mark.parametrize("kind", ["mixed", "cross-layer"])
def test_few_features_that_stand_for_all_give_the_same_on_average(kind: str) -> None:
    frozen = frozen_prompt("llama", kind)
    exact = explain(frozen, ends(frozen), ALL, seeded(0))
    draws = [explain(frozen, ends(frozen), 3, seeded(seed)) for seed in range(60)]
    found = torch.tensor([[it.completeness, *it.error_influence.tolist()] for it in draws], dtype=torch.float64)
    error = found.std(0) / len(draws) ** 0.5
    expected = torch.tensor([exact.completeness, *exact.error_influence.tolist()], dtype=torch.float64)
    assert found[:, 0].std() > 1e-4
    # Shares of a layer are ratios, whose expectation is off by what their spread squared is worth.
    assert ((found.mean(0) - expected).abs() <= 4 * error + 0.02 * expected).all()


def test_those_that_stand_for_all_carry_all_and_each_on_average_its_own() -> None:
    influence = torch.tensor([0.0, 1.0, 5.0, 0.5, 0.0, 2.5], dtype=torch.float64)
    assert [it.tolist() for it in stand_ins(influence, 4, seeded(0))] == [[1, 2, 3, 5], [1.0, 5.0, 0.5, 2.5]]
    carried = torch.zeros(500, 6, dtype=torch.float64)
    for seed in range(500):
        drawn, reached = stand_ins(influence, 3, seeded(seed))
        assert drawn.tolist() == sorted(drawn.tolist())
        assert float(reached.sum()) == pytest.approx(9.0)
        carried[seed, drawn] = reached
    torch.testing.assert_close(carried.mean(0), influence, rtol=0.2, atol=0.05)


def test_a_prompt_on_which_no_feature_is_active_is_all_error() -> None:
    model = tiny_model("gpt2", N_LAYERS)
    dead = tiny_dictionary(model, 0, gated=False, skip=False)
    dead = dataclasses.replace(dead, b_enc=torch.full_like(dead.b_enc, -1e6))
    frozen = freeze(model, Replacement({0: dead}, model), TOKENS)
    found = explain(frozen, ends(frozen), ALL, seeded(0))
    assert found.error_influence.tolist() == [1, 1, 1]
    assert 0 < found.completeness < 1


def value_of(frozen: FrozenPrompt, targets: Targets, given: dict[tuple[int, int], Tensor]) -> Tensor:
    """Run the model as it is, with something added to what MLPs write."""

    def visit(layer: int, passage: Passage) -> Tensor:
        out = passage.out.clone()
        for (at, pos), added in given.items():
            if at == layer:
                out[0, pos] += added
        return out

    resid = run_trunk(frozen.model, frozen.tokens[None], visit)
    weights = torch.tensor([it.weight for it in targets.named], dtype=torch.float64)
    return weights @ (targets.directions @ frozen.model.norm_final(resid[0, -1]))


@pytest.mark.parametrize("kind", ["mixed", "cross-layer"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_credit_is_what_the_targets_gain_per_part_that_is_added(architecture: str, kind: str) -> None:
    frozen = frozen_prompt(architecture, kind)
    # Large, because the run adds up in single precision.
    targets, step = ends(frozen), 4e-3
    found = assign_credit(frozen, targets)
    for layer, recorded in enumerate(frozen.layers):
        parts = {"errors": recorded.error, "features": recorded.written - recorded.error}
        for (name, part), pos in zip(list(parts.items()) * 3, [0, 0, 2, 2, 5, 5], strict=True):
            up = value_of(frozen, targets, {(layer, pos): step * part[pos]})
            down = value_of(frozen, targets, {(layer, pos): -step * part[pos]})
            credit = getattr(found, name)[layer, pos]
            torch.testing.assert_close(credit, (up - down) / (2 * step), rtol=2e-3, atol=5e-4)
    assert found.errors.abs().max() > 0.05


def test_the_error_of_neurons_gets_no_credit_and_all_of_what_has_no_dictionary() -> None:
    exact = frozen_prompt("llama", "neurons")
    assert assign_credit(exact, ends(exact)).error_share().max() < 1e-10
    mixed = frozen_prompt("llama", "mixed")
    assert float(assign_credit(mixed, ends(mixed)).error_share()[1]) == 1
