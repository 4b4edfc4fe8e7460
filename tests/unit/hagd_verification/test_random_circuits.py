"""Random circuits and negative controls on the lookup, whose right circuit is known."""

import pytest
import torch

from hagd.interventions.evaluation import choose, prepare
from hagd.models.weights import named_tensors
from hagd_verification.domain.frontier import Frontier
from hagd_verification.domain.negative_controls import (
    answered,
    claimability,
    foreign_answers,
    permuted_scores,
    random_weights,
    shuffled,
    with_foreign_answers,
)
from hagd_verification.domain.nulls import candidates, frequencies, matched, permuted, uniform
from hagd_verification.domain.panel import Bill, Panel
from hagd_verification.domain.random_circuits import against, necessity, random_control_to_json
from unit.hagd_verification.lookup import LAYOUT, NEURONS, V, lookup_circuit, lookup_subject, lookup_task

STRONG = list(range(5, V))
"""Fourteen of nineteen neurons, and no decoy."""


class Bench:
    """The lookup with a circuit, its panel and its nulls."""

    def __init__(self, chosen: list[int]) -> None:
        subject, self.task = lookup_subject(), lookup_task()
        self.frontier = Frontier.of(lookup_circuit(chosen), subject.model, subject.dictionaries, self.task)
        self.universe = self.frontier.universe
        discover = prepare(self.frontier.subject, self.universe, self.task, "discover", seed=0)
        self.frequency = frequencies(discover)
        self.usable = candidates(self.universe, self.frequency, [LAYOUT])
        self.panel = Panel.of(prepare(self.frontier.subject, self.universe, self.task, "verify", seed=0), Bill())
        self.circuit = self.frontier.vector()
        self.uniform = uniform(self.universe, self.circuit, self.usable, 1)
        self.matched = matched(self.universe, self.circuit, self.usable, self.frequency, 2)


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(STRONG)


def test_only_neurons_of_the_answer_position_compete(bench: Bench) -> None:
    assert int(bench.usable.sum()) == 2 + 2 + NEURONS  # both tokens, both heads at x, the neurons at x


def test_a_random_circuit_without_the_token_preserves_nothing(bench: Bench) -> None:
    test = against(bench.panel, bench.circuit, bench.uniform, 30, None)
    drawn = bench.uniform.draw(0, 30)
    with_token = drawn[:, 1] == 1
    scores = torch.tensor(test.result.scores)
    assert (scores[~with_token] == 0).all()
    assert (scores[with_token] > 0).any()
    assert test.chance == 0


def test_the_p_value_counts_the_random_circuits_that_do_as_well(bench: Bench) -> None:
    test = against(bench.panel, bench.circuit, bench.matched, 49, None)
    exceed = sum(score >= test.observed - 1e-6 for score in test.result.scores)
    assert test.p == (1 + exceed) / 50
    assert len(test.result.scores) == 49
    assert test.overlap == pytest.approx(bench.matched.overlap)


def test_a_null_without_choice_tests_nothing() -> None:
    everything = Bench(list(range(NEURONS)))
    test = against(everything.panel, everything.circuit, everything.matched, 99, None)
    assert test.p is None
    assert len(test.result.scores) == 1


def test_the_report_of_a_null_holds_what_is_needed_to_check_it(bench: Bench) -> None:
    few = bench.panel.first(40, 1)
    first, second = (against(few, bench.circuit, family, 19, None) for family in (bench.uniform, bench.matched))
    found = random_control_to_json(first, second)
    assert set(found) == {"uniform", "matched"}
    for entry, test in ((found["uniform"], first), (found["matched"], second)):
        assert entry["p"] == test.p
        assert entry["p_holm"] >= entry["p"]
        assert len(entry["samples"]) == entry["draws"] == 19
        assert entry["n"] == 40
        assert entry["mean_normalised"] == pytest.approx(entry["mean"])


def test_progress_rises_within_a_test(bench: Bench) -> None:
    seen: list[float] = []
    against(bench.panel.first(20, 1), bench.circuit, bench.matched, 5, stop_after=100, on_part=seen.append)
    assert seen == sorted(seen)
    assert len(seen) == 5


def test_removing_all_neurons_destroys_the_behaviour_and_removing_some_destroys_their_share() -> None:
    some = Bench(list(range(10)))
    found = necessity(some.panel, some.frontier, some.uniform, some.matched, 5)
    assert found["whole"]["damage"] == 1  # the token is gone
    assert 0 < found["parts"]["damage"] < 1
    assert found["parts"]["excess"] == pytest.approx(found["parts"]["damage"] - found["parts"]["random_mean"])


def test_foreign_answers_belong_to_another_prompt(bench: Bench) -> None:
    (own,), (foreign,) = answered(bench.panel), with_foreign_answers(bench.panel)
    assert (own.batch.answers != foreign.batch.answers).all()
    assert torch.equal(own.clean, foreign.clean)
    assert sorted(own.batch.answers.flatten().tolist()) == sorted(foreign.batch.answers.flatten().tolist())


def test_the_model_can_be_claimed_about_and_the_controls_cannot(bench: Bench) -> None:
    claim = claimability(answered(bench.panel), "vocabulary", 0.99, 0)
    assert (claim.accuracy, claim.reasons) == (1.0, [])
    strength = 2 * (1 + (V - 1) / 2 / V)
    assert claim.metric_gap.value == pytest.approx(strength, rel=1e-4)
    for control in (foreign_answers(bench.panel, 0.99, 0), random_weights(bench.panel, 0.99, 0)):
        assert control.outcome.verdict == "no claim"
        assert control.outcome.clean
        assert control.to_json()["task_accuracy"] < 0.5


def test_shuffling_keeps_the_weights_and_loses_the_function(bench: Bench) -> None:
    model = bench.frontier.subject.model
    twin = shuffled(model, 0)
    for name, weight in named_tensors(model).items():
        other = named_tensors(twin)[name]
        assert torch.equal(other.flatten().sort().values, weight.flatten().sort().values), name
    batch = bench.panel.prepared.batches[0].batch
    logits = twin.logits(twin.embed[batch.clean[:, 1:]])
    assert (choose(logits, batch, "vocabulary") == batch.answers).double().mean() < 0.3


def test_permuted_scores_are_refuted(bench: Bench) -> None:
    few_strong = Bench([18, 17, 16, 15])
    broken = permuted(few_strong.universe, few_strong.circuit, few_strong.usable, seed=3)
    family = matched(few_strong.universe, broken, few_strong.usable, few_strong.frequency, seed=4)
    claim = claimability(answered(few_strong.panel), "vocabulary", 0.99, 0)
    found = permuted_scores(few_strong.panel, broken, family, claim, draws=99, threshold=0.9, alpha=0.01, seed=0)
    assert found.outcome.verdict == "refuted"
    assert found.numbers["draws"] >= 10
