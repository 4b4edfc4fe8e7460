"""Cards of nodes whose activity and effect are known."""

import json

import pytest
import torch

from hagd.graphs.circuit import Circuit, CircuitNode
from hagd.graphs.nodes import Node
from hagd_verification.domain.cards import EXAMPLES, make_cards
from hagd_verification.domain.frontier import Frontier
from hagd_verification.domain.labels import label_of, periodicity
from unit.hagd_coarsening.tiny import tiny_subject, tiny_task
from unit.hagd_verification.lookup import V, feature, lookup_circuit, lookup_subject, lookup_task, single


def lookup_frontier(circuit: Circuit) -> Frontier:
    subject = lookup_subject()
    return Frontier.of(circuit, subject.model, subject.dictionaries, lookup_task())


def test_a_neuron_is_active_on_its_token_and_promotes_the_next() -> None:
    cards = make_cards(lookup_frontier(lookup_circuit([4, 9])), lookup_task(), 100, 100)
    assert set(cards) == {"feature.0.4@x", "feature.0.9@x"}
    card = cards["feature.0.4@x"]
    assert card["frequency"] == pytest.approx(1 / V, abs=1e-4)
    assert card["promoted"][0][0] == "5"
    assert len(card["examples"]) == 2  # token 4 behind each of two noises
    for example in card["examples"]:
        assert example["tokens"][1] == "4"
        assert (example["position"], example["prediction"]) == (1, "5")
        assert example["activations"][1] > 0


def test_a_supernode_has_a_card_and_so_have_its_leaves() -> None:
    plain = lookup_circuit([1])
    grouped = CircuitNode("supernode.0@x", "supernode", 0, "x", (feature(2), feature(3)), 2, False, 1.0)
    circuit = Circuit((*plain.nodes, grouped), 3, (), 0, plain.refined, 0, ())
    cards = make_cards(lookup_frontier(circuit), lookup_task(), 100, 100)
    assert list(cards) == ["feature.0.1@x", "supernode.0@x", "feature.0.2@x", "feature.0.3@x"]
    assert cards["supernode.0@x"]["frequency"] == pytest.approx(2 / V, abs=1e-4)
    assert {token for token, _ in cards["supernode.0@x"]["promoted"][:2]} == {"3", "4"}


def test_the_number_of_cards_is_bounded() -> None:
    assert len(make_cards(lookup_frontier(lookup_circuit(list(range(V)))), lookup_task(), 20, 7)) == 7
    assert make_cards(lookup_frontier(lookup_circuit([1])), lookup_task(), 20, 0) == {}


def test_heads_and_features_of_several_layouts_have_cards_that_are_plain_json() -> None:
    subject, task = tiny_subject("llama"), tiny_task()
    text = {i: f"t{i}" for i in range(18)}
    task = type(task)(task.name, task.roles, task.batches, text, task.judged, task.bos, 0.0)
    leaves = [
        Node("head", 1, "eq", 3),
        Node("head", 0, "c", 1),
        Node("feature", 0, "a", 2),
        Node("feature", 1, "eq", 1),
    ]
    nodes = tuple(single(leaf) for leaf in leaves)
    circuit = Circuit(nodes, 4, (), 0, {0: task.roles, 1: task.roles}, 0, ())
    frontier = Frontier.of(circuit, subject.model, subject.dictionaries, task)
    cards = make_cards(frontier, task, 12, 10)
    assert set(cards) == {str(leaf) for leaf in leaves}
    json.dumps(cards, allow_nan=False)
    head = cards["head.1.3@eq"]
    assert len(head["examples"]) == EXAMPLES
    assert sum(head["examples"][0]["activations"]) == pytest.approx(1, abs=1e-3)  # an attention pattern
    assert head["label"].startswith("looks at 't")


def test_a_cosine_over_numbers_is_named_by_its_frequency() -> None:
    numbers = torch.arange(23)
    effect = torch.cos(2 * torch.pi * 5 * numbers / 23 + 0.3)
    text = {i: str(i) for i in range(23)} | {23: "="}
    found = periodicity(torch.cat([effect, torch.zeros(1)]), torch.arange(24), text)
    assert found is not None
    assert found[0] == 5
    assert found[1] == pytest.approx(1, abs=1e-4)
    label = label_of("feature", torch.cat([effect, torch.zeros(1)]), torch.arange(24), text, [])
    assert label == "frequency 5 of the answer (100%)"


def test_words_have_no_frequency() -> None:
    text = {i: f"word{i}" for i in range(12)}
    assert periodicity(torch.randn(12), torch.arange(12), text) is None
    effect = torch.zeros(12)
    effect[[3, 7, 1]] = torch.tensor([3.0, 2.0, 1.0])
    assert label_of("feature", effect, torch.arange(12), text, []) == "promotes word3, word7, word1"
