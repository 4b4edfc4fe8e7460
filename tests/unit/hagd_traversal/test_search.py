"""The search finds a planted circuit exactly, and its parts keep their promises."""

import pytest
import torch

from hagd.graphs.nodes import Node
from hagd.interventions.evaluation import prepare
from hagd.interventions.universe import Universe
from hagd_traversal.domain.evidence import Evidence
from hagd_traversal.domain.gate_learning import GateConfig, learn_gates
from hagd_traversal.domain.refinement import RefinementConfig, refine_blocks
from hagd_traversal.domain.search import SearchConfig, SearchState, remove_groups, starting_circuit
from hagd_traversal.domain.selection import (
    Family,
    SizeScore,
    candidate_sizes,
    choose_size,
    nested,
    rank_nodes,
    score_sizes,
)
from unit.hagd_traversal.planted import WRITING_NEURONS, Planted, planted


@pytest.fixture(scope="module")
def toy() -> Planted:
    return planted()


def _pace(budget: int = 10**6) -> SearchConfig:
    return SearchConfig(budget=budget, floor=1, first_price=1e-6, most_divergence=0.01)


def _search(toy: Planted, budget: int = 10**6) -> tuple[Evidence, SearchState]:
    evidence = Evidence(toy.prepared)
    state = SearchState(toy.universe.exists.float(), 0.0)
    ids = torch.arange(len(toy.universe))
    cost = (ids * 7919 % 101).float()  # a useless guide: the tests must do all the work
    remove_groups(evidence, state, cost, [ids, ids // 4, ids // 16], _pace(budget))
    return evidence, state


def test_the_full_circuit_costs_nothing_and_the_empty_one_much(toy: Planted) -> None:
    evidence = Evidence(toy.prepared)
    assert evidence.divergence(toy.universe.exists.float()) < 1e-7, "up to rounding"
    assert evidence.divergence(torch.zeros(len(toy.universe))) > 0.1


def test_gates_open_for_the_planted_circuit_and_close_for_the_rest(toy: Planted) -> None:
    evidence = Evidence(toy.prepared)
    order = toy.universe.exists.nonzero().flatten().tolist()
    tokens = toy.universe.kinds == 0
    log_odds = learn_gates(evidence, order, tokens, GateConfig(steps=150, price_nats=2e-3, prompts=64), seed=0)
    needed = torch.tensor([toy.universe.entry(node) for node in sorted(toy.truth)])
    rest = toy.universe.exists.clone()
    rest[needed] = False
    assert float(log_odds[needed].min()) > 0 > float(log_odds[rest].max())
    assert bool((log_odds[~toy.universe.exists] < float(log_odds[order].min())).all())


def test_skipping_closed_gates_changes_neither_value_nor_gradient_of_open_ones(toy: Planted) -> None:
    evidence = Evidence(toy.prepared)
    pattern = torch.arange(len(toy.universe)) % 3
    gates = (pattern * 0.5 * toy.universe.exists).requires_grad_(True)
    skipped = evidence.opened_divergence(gates)
    (quick,) = torch.autograd.grad(skipped, gates)
    assert float(skipped.detach()) == pytest.approx(evidence.divergence(gates.detach()), rel=1e-5)
    rows = evidence.gate_gradients(gates.detach(), (1.0,), objective="divergence", parts=16)
    dense = -(22 * rows[0] + 64 * rows[1]) / 86
    torch.testing.assert_close(quick[gates > 0], dense[gates > 0], rtol=1e-3, atol=1e-6)


def test_a_useless_guide_still_ends_in_the_planted_circuit(toy: Planted) -> None:
    evidence = Evidence(toy.prepared)
    state = SearchState(toy.universe.exists.float(), 0.0)
    ids = torch.arange(len(toy.universe))
    remove_groups(evidence, state, ids.float(), [ids, ids // 5], _pace())
    free_sizes = [step["nodes"] for step in state.trace if step["kl_nats"] < 1e-5]
    n_free = int(toy.universe.exists.sum() - min(free_sizes))
    removed_early = state.removed[:n_free]
    early = {toy.universe.node(entry) for entry in removed_early}
    free = {toy.universe.node(int(i)) for i in toy.universe.exists.nonzero().flatten()} - toy.truth
    assert not early & toy.truth
    assert early == free


def test_the_bill_counts_every_prompt_run_and_the_budget_ends_the_search(toy: Planted) -> None:
    evidence, state = _search(toy, budget=10 * 86)
    assert evidence.n_runs == 86, "22 of 64 prompts with their counterfactual, all with an unpaired donor"
    assert evidence.spent % 86 == 0
    assert evidence.spent <= 11 * 86
    assert state.size < int(toy.universe.exists.sum())


def test_a_test_on_cached_residuals_equals_one_from_scratch(toy: Planted) -> None:
    evidence = Evidence(toy.prepared)
    whole = toy.universe.exists.float()
    bases = evidence.runs(whole)
    trial = whole.clone()
    trial[toy.universe.entry(Node("feature", 1, "eq", WRITING_NEURONS[0]))] = 0.0
    quick, slow = evidence.runs(trial, 1, bases), evidence.runs(trial)
    torch.testing.assert_close(quick[0].logits, slow[0].logits)


def test_gate_gradients_agree_with_finite_differences(toy: Planted) -> None:
    evidence = Evidence(toy.prepared)
    circuit = torch.full((len(toy.universe),), 0.7) * toy.universe.exists
    rows = evidence.gate_gradients(circuit, (1.0,), objective="divergence", parts=16)
    entry = toy.universe.entry(Node("feature", 1, "eq", WRITING_NEURONS[1]))
    step = 1e-2
    up, down = circuit.clone(), circuit.clone()
    up[entry] += step
    down[entry] -= step
    slope = -(evidence.divergence(up) - evidence.divergence(down)) / (2 * step)
    weighted = (22 * rows[0] + 64 * rows[1]) / 86
    assert float(weighted[entry]) == pytest.approx(slope, rel=0.05)


def test_the_start_holds_the_leading_nodes_and_removed_the_rest_last_first() -> None:
    state = starting_circuit([3, 1, 0, 2], 2, 5)
    assert state.circuit.tolist() == [0, 1, 0, 1, 0]
    assert rank_nodes(state, torch.tensor([0.0, 1.0, 0.0, 2.0, 0.0])) == [3, 1, 0, 2]


def test_a_new_draw_has_other_prompts_and_other_donors(toy: Planted) -> None:
    evidence = Evidence(toy.prepared, prompts=16)
    first = evidence.batches[0]
    evidence.redraw()
    second = evidence.batches[0]
    assert evidence.n_runs == 6 + 16
    assert not torch.equal(first.batch.clean, second.batch.clean)
    again = Evidence(toy.prepared, prompts=16).batches[0]
    assert torch.equal(first.batch.clean, again.batch.clean)
    assert torch.equal(first.donor.embed, again.donor.embed)
    evidence.redraw(32)
    assert evidence.n_runs == 11 + 32


def test_blocks_are_refined_into_the_features_that_write(toy: Planted) -> None:
    blocks = Universe.of(toy.subject, toy.universe.roles, torch.zeros(2, 3, dtype=torch.bool))
    evidence = Evidence(prepare(toy.subject, blocks, toy.task, "discover", seed=0))
    circuit = blocks.exists.float()
    block = blocks.entry(Node("mlp", 1, "eq"))
    config = RefinementConfig(tolerance_nats=1e-6, largest_share=0.5, smallest=1)
    replaced = refine_blocks(evidence, circuit, config, 10**6)
    assert {blocks.node(i).index for i in replaced[block]} >= set(WRITING_NEURONS)
    assert len(replaced[block]) == 4


def test_survivors_lead_the_ranking_and_the_last_removed_follows() -> None:
    state = SearchState(torch.tensor([0.0, 1.0, 0.0, 1.0]), 0.0, removed=[2, 0])
    assert rank_nodes(state, torch.tensor([9.0, 1.0, 9.0, 2.0])) == [3, 1, 0, 2]


def test_nested_circuits_are_prefixes(toy: Planted) -> None:
    circuits = nested([4, 2, 0], [1, 3], 5)
    assert circuits.tolist() == [[0, 0, 0, 0, 1], [1, 0, 1, 0, 1]]
    needed = [toy.universe.entry(node) for node in sorted(toy.truth)]
    scores = score_sizes(toy.prepared, needed, [1, len(needed)], 0.9)
    assert [score.size for score in scores] == [len(needed), 1]
    assert scores[1].preservation < scores[0].preservation == 1.0
    few = score_sizes(toy.prepared, needed, range(1, 9), 1.1)
    assert [score.size for score in few] == [8, 7, 6, 5], "what is smaller than four misses in a row is not scored"


def test_the_chosen_size_holds_the_target_from_there_upwards() -> None:
    rising = [SizeScore(1, 0.98), SizeScore(2, 0.5), SizeScore(4, 0.97), SizeScore(8, 0.99)]
    assert choose_size(rising, 0.97) == 4
    assert choose_size(rising, 0.995) == 8
    assert candidate_sizes(50, 20)[-1] == 20


def test_a_size_that_reaches_the_target_by_luck_alone_is_not_chosen() -> None:
    scores = [SizeScore(4, 0.98, 0.02), SizeScore(8, 0.99, 0.01), SizeScore(16, 0.995, 0.005)]
    assert choose_size(scores, 0.97) == 8
    assert choose_size(scores, 0.999) == 16


@pytest.mark.parametrize(
    ("size", "cautious", "better"),
    [(40, 0.98, True), (60, 1.0, False), (30, 0.9, False), (50, 0.99, False)],
)
def test_the_order_of_the_start_is_taken_only_where_it_is_smaller_at_the_target(
    size: int, cautious: float, better: bool
) -> None:
    searched = Family([], 50, 0.98, 1)
    assert Family([], size, cautious, 1).is_better_than(searched, 0.97) is better


def test_where_neither_order_reaches_the_target_the_closer_one_is_taken() -> None:
    searched = Family([], 50, 0.8, 1)
    assert Family([], 90, 0.85, 1).is_better_than(searched, 0.97)
    assert not Family([], 10, 0.7, 1).is_better_than(searched, 0.97)


def test_a_family_ends_at_the_planted_circuit(toy: Planted) -> None:
    needed = [toy.universe.entry(node) for node in sorted(toy.truth)]
    rest = [i for i in toy.universe.exists.nonzero().flatten().tolist() if i not in needed]
    family = Family.of(toy.prepared, [*needed, *rest], 5000, None, 0.99)
    assert family.size in candidate_sizes(len(needed) + len(rest), None)
    # Sizes are a quarter octave apart.
    assert len(needed) / 1.2 <= family.size <= len(needed) * 1.2
    assert family.cautious == 1.0
