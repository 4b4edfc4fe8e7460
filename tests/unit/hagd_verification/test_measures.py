"""Every number of the report on a model where all of them follow from counting."""

import pytest
import torch

from hagd.errors import InvalidInputError
from hagd.graphs.nodes import Node
from hagd.interventions.evaluation import HEADLINE, Setting, prepare
from hagd_verification.domain.frontier import Frontier
from hagd_verification.domain.measures import (
    headline_to_json,
    measure_headline,
    measure_mediation,
    measure_settings,
    minimum_over,
    side_settings,
)
from hagd_verification.domain.panel import Bill, Panel
from hagd_verification.domain.statistics import ClusterBootstrap
from unit.hagd_verification.lookup import (
    NEURONS,
    NOISES,
    V,
    faithfulness_of,
    lookup_circuit,
    lookup_subject,
    lookup_task,
    preserved_under_counterfactual,
    single,
)

CHOSEN = [18, 17, 16, 14, 11, 10, 3]
N = NOISES * V


def bench(chosen: list[int]) -> tuple[Frontier, Panel, ClusterBootstrap]:
    subject, task = lookup_subject(), lookup_task()
    frontier = Frontier.of(lookup_circuit(chosen), subject.model, subject.dictionaries, task)
    prepared = prepare(frontier.subject, frontier.universe, task, "verify", seed=0, keep_patterns=True)
    panel = Panel.of(prepared, Bill())
    return frontier, panel, ClusterBootstrap.of(panel.groups, 500, 0)


@pytest.mark.parametrize("chosen", [[], [5], CHOSEN, list(range(V))])
def test_preservation_and_faithfulness_follow_the_closed_form(chosen: list[int]) -> None:
    frontier, panel, bootstrap = bench(chosen)
    found = measure_headline(panel, bootstrap, frontier.vector())
    counterfactual = found.scores[0]
    assert counterfactual.preserved == pytest.approx(preserved_under_counterfactual(chosen))
    if chosen and found.worst is counterfactual:
        assert found.faithfulness is not None
        assert found.faithfulness.value == pytest.approx(faithfulness_of(chosen), abs=1e-5)
    assert found.preserved.value == min(entry.preserved for entry in found.scores)


def test_the_model_itself_is_right_everywhere_and_the_empty_circuit_nowhere() -> None:
    _, panel, _ = bench(CHOSEN)
    assert panel.right.all()
    assert len(panel) == N
    for setting in HEADLINE:
        assert panel.empty(setting).preserved == 0


def test_all_neurons_give_the_model_back() -> None:
    frontier, panel, bootstrap = bench(list(range(V)))
    found = measure_headline(panel, bootstrap, frontier.vector())
    json = headline_to_json(found, panel, seed=3)
    assert json["behavioural_preservation"] == 1
    assert json["ci95"] == [pytest.approx(0.025 ** (1 / N)), 1.0]
    assert json["faithfulness"] == pytest.approx(1)
    assert json["kl_nats"] == pytest.approx(0, abs=1e-6)
    assert (json["chance"], json["normalised"], json["n"], json["seed"]) == (0, 1, N, 3)
    assert found.equivalence_p == pytest.approx(1 / 501)


def test_without_the_token_the_neurons_are_blind() -> None:
    frontier, panel, bootstrap = bench(list(range(V)))
    blind = frontier.vector().clone()
    blind[frontier.universe.entry(Node("token", -1, "x"))] = 0
    assert measure_headline(panel, bootstrap, blind).preserved.value == 0


def test_all_of_a_lookup_is_mediated_by_its_features_and_none_by_errors() -> None:
    frontier, panel, bootstrap = bench(CHOSEN)
    headline = measure_headline(panel, bootstrap, frontier.vector())
    found = measure_mediation(panel, bootstrap, frontier, headline)
    assert found.feature_share is not None
    assert found.error_credit is not None
    assert [found.feature_share.value, found.feature_share.low] == pytest.approx([1, 1])
    assert [found.error_credit.value, found.error_credit.high] == pytest.approx([0, 0], abs=1e-6)


def test_a_circuit_of_blocks_has_no_feature_share_and_no_errors() -> None:
    subject, task = lookup_subject(), lookup_task()
    nodes = (single(Node("token", -1, "x")), single(Node("mlp", 0, "x")))
    circuit = lookup_circuit([])
    whole = type(circuit)(nodes, 2, (), 0, {}, 0, ())
    frontier = Frontier.of(whole, subject.model, subject.dictionaries, task)
    panel = Panel.of(prepare(frontier.subject, frontier.universe, task, "verify", seed=0), Bill())
    bootstrap = ClusterBootstrap.of(panel.groups, 100, 0)
    headline = measure_headline(panel, bootstrap, frontier.vector())
    found = measure_mediation(panel, bootstrap, frontier, headline)
    assert headline.preserved.value == 1
    assert found.feature_share is None
    assert found.error_credit is not None
    assert (found.error_credit.value, found.error_credit.high) == (0, 0)
    assert frontier.leaves() == 1 + NEURONS + 1


def test_the_settings_cover_what_the_report_promises() -> None:
    settings = side_settings(refined=True)
    assert settings[:2] == list(HEADLINE)
    assert len(set(settings)) == len(settings) == 15
    assert all(setting.errors == "corrupted" for setting in side_settings(refined=False))


def test_the_minimum_leaves_out_what_helps_the_circuit() -> None:
    frontier, panel, bootstrap = bench(CHOSEN)
    seen: list[float] = []
    rows = measure_settings(panel, bootstrap, frontier.vector(), True, seen.append)
    least = minimum_over(rows)
    assert seen[-1] == 1
    eligible = {(row["ablation"], row["errors"]) for row in rows if row["attention"] == "live"}
    assert {(a, e) for a in ("counterfactual", "unpaired", "mean") for e in ("corrupted", "zero")} <= eligible
    assert least["ablation"] != "zero"
    assert least["behavioural_preservation"] <= min(
        rows[0]["behavioural_preservation"], rows[1]["behavioural_preservation"]
    )


def test_live_tokens_outside_cannot_hurt_a_circuit_that_lacks_them() -> None:
    _, panel, _ = bench(CHOSEN)
    frontier, _, _ = bench(list(range(V)))
    blind = frontier.vector() * (frontier.universe.kinds == 5)
    assert panel.score(blind, Setting("counterfactual")).preserved == 0
    assert panel.score(blind, Setting("counterfactual", tokens_outside="clean")).preserved == 1


def test_a_shorter_panel_keeps_every_prompt_with_its_own_donors() -> None:
    frontier, panel, _ = bench(CHOSEN)
    few = panel.first(23)
    assert len(few) == 23
    for setting in HEADLINE:
        whole = panel.score(frontier.vector(), setting)
        part = few.score(frontier.vector(), setting)
        assert part.metric.tolist() == whole.metric[:23].tolist()
        assert part.agreement.tolist() == whole.agreement[:23].tolist()
    assert few.metric.tolist() == panel.metric[:23].tolist()


def test_many_circuits_at_once_score_as_they_do_alone() -> None:
    frontier, panel, _ = bench(CHOSEN)
    generator = torch.Generator().manual_seed(0)
    keep = (torch.rand(13, len(frontier.universe), generator=generator) < 0.7).float() * frontier.universe.exists
    alone = [min(scores.preserved for scores in panel.headline(row)) for row in keep]
    assert panel.headline_of_many(keep) == pytest.approx(alone)


def test_evaluations_are_billed_by_prompt_and_donor() -> None:
    frontier, panel, _ = bench(CHOSEN)
    before = panel.bill.spent
    assert before == 2 * N
    panel.headline(frontier.vector())
    assert panel.bill.spent - before == 4 * N


@pytest.mark.parametrize(
    ("leaf", "message"),
    [(Node("mlp", 0, "x"), "no node at the circuit's resolution"), (Node("feature", 0, "y", 1), "not of this model")],
)
def test_a_node_of_another_model_is_refused(leaf: Node, message: str) -> None:
    subject, task = lookup_subject(), lookup_task()
    circuit = lookup_circuit([1])
    wrong = type(circuit)((*circuit.nodes, single(leaf)), 3, (), 0, circuit.refined, 0, ())
    with pytest.raises(InvalidInputError, match=message):
        Frontier.of(wrong, subject.model, subject.dictionaries, task)


def test_an_error_node_is_named_but_never_live() -> None:
    subject, task = lookup_subject(), lookup_task()
    circuit = lookup_circuit([1])
    named = type(circuit)((*circuit.nodes, single(Node("error", 0, "x"))), 3, (), 0, circuit.refined, 0, ())
    frontier = Frontier.of(named, subject.model, subject.dictionaries, task)
    assert frontier.vector().sum() == 2
    assert frontier.by_kind() == {"error": 1, "feature": 1, "token": 1}
