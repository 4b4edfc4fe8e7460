"""Feature cards against the model itself: activations by encoding, logit effects by adding the feature."""

from dataclasses import replace

import pytest
import torch

from hagd.graphs.nodes import Node
from hagd.interventions.activations import Subject, record
from hagd.models.attention import project_heads
from hagd.tasks.task import Task
from hagd.viewer.cards import feature_cards
from unit.hagd_coarsening.tiny import tiny_subject, tiny_task

FEATURES = (Node("feature", 0, "b", 3), Node("feature", 0, "eq", 11), Node("feature", 1, "eq", 2))


@pytest.fixture(params=["gpt2", "llama", "gpt_neox"])
def subject(request: pytest.FixtureRequest) -> Subject:
    return tiny_subject(request.param)


@pytest.fixture
def task(subject: Subject) -> Task:
    vocab = subject.model.unembed.shape[1]
    return replace(tiny_task(), token_text={token: f" t{token}" for token in range(vocab)})


def test_frequency_and_examples_are_those_of_the_encoder(subject: Subject, task: Task) -> None:
    cards = feature_cards(subject, task, FEATURES, n_examples=4)
    for node in FEATURES:
        values, texts = [], []
        for batch in task.batches["discover"]:
            if node.role not in batch.layout.roles:
                continue
            features = record(subject, batch.clean, batch.layout.answer_positions).features[node.layer]
            values += features[:, batch.layout.roles.index(node.role), node.index].tolist()
            texts += [[f" t{token}" for token in row] for row in batch.clean.tolist()]
        card = cards[str(node)]
        assert card["frequency"] == pytest.approx(sum(value != 0 for value in values) / len(values))
        strongest = sorted((abs(value) for value in values if value), reverse=True)[:4]
        at_role = [example["activations"][example["position"]] for example in card["examples"]]
        assert [abs(value) for value in at_role] == pytest.approx(strongest, abs=1e-4)
        for example, value in zip(card["examples"], at_role, strict=True):
            assert values[texts.index(example["tokens"])] == pytest.approx(value, abs=1e-4)


def test_promoted_tokens_are_those_whose_logits_rise_when_the_feature_is_added(subject: Subject, task: Task) -> None:
    model, node = subject.model, FEATURES[2]
    card = feature_cards(subject, task, [node], n_logits=5)[str(node)]
    scales, active = [], []
    for batch in task.batches["discover"]:
        run = record(subject, batch.clean, batch.layout.answer_positions)
        resid = run.embed + model.position_part(run.embed.shape[1])
        for block, heads, out in zip(model.blocks, run.heads, run.mlp_out, strict=True):
            resid = resid + project_heads(block.attention, heads) + out
        scales.append(model.norm_final.scale(resid[:, list(batch.layout.answer_positions)]).flatten())
        values = run.features[1][:, batch.layout.roles.index("eq"), node.index]
        active.append(values[values != 0])
    scale, mean = torch.cat(scales).mean(), torch.cat(active).mean()

    def frozen_logits(x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean() if model.norm_final.kind == "layer" else x
        return centred * scale * model.norm_final.gain @ model.unembed

    base = torch.randn(model.config.d_model, generator=torch.Generator().manual_seed(0))
    moved = frozen_logits(base + mean * subject.dictionaries[1].w_dec[node.index]) - frozen_logits(base)
    moved = moved - moved.mean()
    top = moved.topk(5)
    assert [name for name, _ in card["promoted"]] == [f" t{i}" for i in top.indices.tolist()]
    assert [value for _, value in card["promoted"]] == pytest.approx(top.values.tolist(), abs=2e-3)
    low = (-moved).topk(5)
    assert [name for name, _ in card["suppressed"]] == [f" t{i}" for i in low.indices.tolist()]


def test_only_features_with_a_dictionary_get_a_card(subject: Subject, task: Task) -> None:
    bare = Subject(subject.model, {1: subject.dictionaries[1]})
    cards = feature_cards(bare, task, [*FEATURES, Node("head", 0, "eq", 1), Node("error", 1, "eq")])
    assert set(cards) == {str(FEATURES[2])}
    assert feature_cards(Subject(subject.model), task, FEATURES) == {}


def test_a_token_without_text_is_shown_by_its_number(subject: Subject, task: Task) -> None:
    cards = feature_cards(subject, replace(task, token_text={0: "zero"}), FEATURES)
    tokens = {token for card in cards.values() for example in card["examples"] for token in example["tokens"]}
    assert any(token.startswith("#") for token in tokens)
    assert all(name == "zero" for card in cards.values() for name, _ in card["promoted"])
