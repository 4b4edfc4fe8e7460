"""What random circuits keep and what they change."""

import numpy as np
import pytest
import torch

from hagd.interventions.activations import Subject
from hagd.interventions.evaluation import prepare
from hagd.interventions.universe import Universe
from hagd_verification.domain.nulls import (
    FEATURE,
    FREQUENCY_BINS,
    NullFamily,
    Stratum,
    candidates,
    frequencies,
    frequency_bins,
    matched,
    permuted,
    uniform,
)
from unit.hagd_coarsening.tiny import tiny_model, tiny_subject, tiny_task
from unit.hagd_verification.lookup import V, lookup_subject, lookup_task


def tiny_universe(refined_layers: list[int]) -> Universe:
    subject = tiny_subject("gpt2")
    kept = Subject(subject.model, {layer: subject.dictionaries[layer] for layer in refined_layers})
    refined = torch.zeros(2, 4, dtype=torch.bool)
    refined[refined_layers] = True
    return Universe.of(kept, ("a", "b", "c", "eq"), refined)


def some_circuit(universe: Universe, share: float = 0.4, seed: int = 0) -> torch.Tensor:
    random = torch.rand(len(universe), generator=torch.Generator().manual_seed(seed))
    return ((random < share) & universe.exists & (universe.kinds != 3)).float()


def counts(universe: Universe, circuit: torch.Tensor, *columns: torch.Tensor) -> dict[tuple[int, ...], int]:
    found: dict[tuple[int, ...], int] = {}
    for entry in circuit.nonzero().flatten().tolist():
        key = tuple(int(column[entry]) for column in (universe.kinds, universe.layers, *columns))
        found[key] = found.get(key, 0) + 1
    return found


def test_a_matched_circuit_keeps_tokens_heads_and_counts_by_layer_role_and_frequency() -> None:
    universe = tiny_universe([0, 1])
    circuit = some_circuit(universe)
    frequency = torch.rand(len(universe), generator=torch.Generator().manual_seed(1))
    family = matched(universe, circuit, universe.exists, frequency, seed=7)
    bins = frequency_bins(universe, frequency, universe.exists)
    fixed = universe.kinds < 2
    drawn = family.draw(0, 11)
    for row in drawn:
        assert torch.equal(row[fixed], circuit[fixed])
        assert counts(universe, row, universe.role_ids, bins) == counts(universe, circuit, universe.role_ids, bins)
    assert len({tuple(row.tolist()) for row in drawn}) == 11


def test_a_matched_circuit_keeps_the_number_of_blocks_per_layer_at_other_roles() -> None:
    universe = tiny_universe([])
    circuit = torch.zeros(len(universe))
    blocks = (universe.kinds == 2).nonzero().flatten()
    circuit[blocks[[0, 1, 6]]] = 1
    drawn = matched(universe, circuit, universe.exists, torch.ones(len(universe)), seed=1).draw(0, 40)
    for row in drawn:
        assert counts(universe, row) == {(2, 0): 2, (2, 1): 1}
    roles = {int(universe.role_ids[i]) for row in drawn for i in row.nonzero().flatten()}
    assert roles == {0, 1, 2, 3}


def test_a_uniform_circuit_has_as_many_nodes_from_anywhere() -> None:
    universe = tiny_universe([0])
    circuit = some_circuit(universe, 0.2)
    drawn = uniform(universe, circuit, universe.exists & (universe.kinds != 3), seed=2).draw(0, 60)
    assert (drawn.sum(1) == circuit.sum()).all()
    assert (drawn[:, ~universe.exists] == 0).all()
    assert {int(kind) for kind in universe.kinds[drawn.any(0)]} == {0, 1, 2, 4, 5}


def test_draws_depend_on_their_number_alone() -> None:
    family = NullFamily(7, np.array([0]), (Stratum(np.arange(1, 7), 3),), seed=5)
    assert torch.equal(family.draw(0, 9)[4:], family.draw(4, 5))
    assert (family.draw(0, 9)[:, 0] == 1).all()


def test_the_overlap_of_draws_is_the_expected_one() -> None:
    family = NullFamily(30, np.zeros(0, dtype=int), (Stratum(np.arange(20), 5), Stratum(np.arange(20, 30), 10)), 0)
    drawn = family.draw(0, 400)
    shared = (drawn[:-1] * drawn[1:]).sum(1).mean() / 15
    assert float(shared) == pytest.approx(family.overlap, abs=0.02)
    assert family.overlap == pytest.approx((5 * 5 / 20 + 10) / 15)


def test_a_family_without_choice_says_so() -> None:
    assert NullFamily(4, np.array([0]), (Stratum(np.array([1, 2]), 2),), 0).is_constant
    assert not NullFamily(4, np.array([0]), (Stratum(np.array([1, 2]), 1),), 0).is_constant


def test_permuting_keeps_counts_within_kind_and_layer_only() -> None:
    universe = tiny_universe([0, 1])
    circuit = some_circuit(universe)
    found = permuted(universe, circuit, universe.exists & (universe.kinds != 3), seed=3)
    assert counts(universe, found) == counts(universe, circuit)
    assert not torch.equal(found, circuit)


def test_frequencies_are_shares_of_discovery_prompts_at_the_role() -> None:
    subject, task = lookup_subject(), lookup_task()
    refined = torch.ones(1, 2, dtype=torch.bool)
    universe = Universe.of(subject, task.roles, refined)
    found = frequencies(prepare(subject, universe, task, "discover", seed=0))
    features = universe.kinds == FEATURE
    at_x = features & (universe.role_ids == 1)
    assert found[at_x].tolist() == pytest.approx([1 / V] * 2 * V)
    at_noise = found[features & (universe.role_ids == 0)]
    assert at_noise.tolist() == [0.5, 0.5, *[0] * (V - 2)] * 2  # discovery prompts have two noises
    assert (found[~features] == 1).all()


def test_bins_hold_equal_numbers_in_order_of_frequency() -> None:
    subject, task = lookup_subject(), lookup_task()
    universe = Universe.of(subject, task.roles, torch.ones(1, 2, dtype=torch.bool))
    frequency = torch.rand(len(universe), generator=torch.Generator().manual_seed(2))
    at_x = (universe.kinds == FEATURE) & (universe.role_ids == 1)
    bins = frequency_bins(universe, frequency, universe.exists)[at_x]
    sizes = torch.bincount(bins, minlength=FREQUENCY_BINS)
    assert sizes.max() - sizes.min() <= 1
    ordered = bins[frequency[at_x].argsort()]
    assert (ordered.diff() >= 0).all()


def test_features_of_equal_frequency_share_a_bin() -> None:
    subject, task = lookup_subject(), lookup_task()
    universe = Universe.of(subject, task.roles, torch.ones(1, 2, dtype=torch.bool))
    bins = frequency_bins(universe, torch.full((len(universe),), 0.3), universe.exists)
    assert set(bins.tolist()) == {0}


def test_only_what_is_live_and_reaches_the_answer_is_drawn() -> None:
    model, task = tiny_model("llama"), tiny_task()
    subject = Subject(model)
    universe = Universe.of(subject, task.roles, torch.zeros(2, 4, dtype=torch.bool))
    layouts = [batch.layout for batch in task.batches["discover"]]
    usable = candidates(universe, torch.ones(len(universe)), layouts)
    answers = {universe.roles[int(universe.role_ids[i])] for i in usable.nonzero().flatten() if universe.layers[i] == 1}
    assert answers == {"a", "eq"}  # the answer positions of the two layouts
    dead = torch.ones(len(universe))
    dead[3] = 0
    assert not candidates(universe, dead, layouts)[3]
