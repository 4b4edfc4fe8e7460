"""A one-layer model small enough for a pencil: every edge and score is known.

Residual axes: 0 holds the token, 1 what the head copies, 2 what the feature writes, 3 is spare. RMS norm without
gain, so a norm is a division by the root mean square of its input. One position: the attention pattern is 1.
"""

import math

import pytest
import torch

from hagd.dictionaries.dictionary import Dictionary
from hagd.graphs.attribution_graph import AttributionGraph
from hagd.interventions.activations import Subject
from hagd.models.language_model import Attention, Block, LanguageModel, Mlp, ModelConfig, Norm
from hagd.tasks.task import Layout, PromptBatch, Task
from hagd_coarsening.domain.task_graph import GraphConfig, build_task_graph

EPS = 0.0
COPY, READ, WRITE, SLACK = 0.5, 3.0, 2.0, 0.25
"""Head: axis 0 -> COPY on axis 1. MLP neuron: reads READ on axis 1, writes WRITE + SLACK on axis 2; the dictionary's
feature writes WRITE only, so the error writes SLACK times the activation."""


def unit(axis: int, size: int = 4, scale: float = 1.0) -> torch.Tensor:
    vector = torch.zeros(size, dtype=torch.float64)
    vector[axis] = scale
    return vector


def hand_built() -> tuple[Subject, Task]:
    config = ModelConfig("llama", 1, 4, 1, 1, 1, 1, 40, 4, "relu", "rms", EPS, None)
    norm = Norm("rms", torch.ones(4, dtype=torch.float64), None, EPS)
    zeros = torch.zeros(1, 4, 1, dtype=torch.float64)
    attention = Attention(zeros, zeros, unit(0)[None, :, None], unit(1, scale=COPY)[None, None], None, None, None, None)
    mlp = Mlp("relu", None, unit(1, scale=READ)[:, None], None, unit(2, scale=WRITE + SLACK)[None], None)
    embed = torch.outer(torch.arange(1, 41, dtype=torch.float64), unit(0))
    unembed = torch.zeros(4, 40, dtype=torch.float64)
    unembed[2, 20:], unembed[1, 20:] = 1.0, -0.125
    model = LanguageModel(config, embed, None, (Block(norm, attention, norm, mlp),), norm, unembed)
    dictionary = Dictionary(
        "transcoder",
        0,
        "relu",
        None,
        None,
        None,
        torch.stack([unit(1, scale=READ), unit(1, scale=-READ)], 1),
        torch.zeros(2, dtype=torch.float64),
        torch.stack([unit(2, scale=WRITE), unit(3)]),
        torch.zeros(4, dtype=torch.float64),
        None,
    )
    tokens = torch.arange(18)[:, None]
    batch = PromptBatch(
        Layout(("x",), (0,)),
        tokens,
        tokens.flip(0),
        torch.arange(20, 38)[:, None],
        torch.full((18, 1, 1), 3),
        tuple(f"g{i}" for i in range(18)),
    )
    return Subject(model, {0: dictionary}), Task("hand", ("x",), {"discover": (batch,)}, {}, "vocabulary", False, 0.0)


@pytest.fixture(scope="module")
def graph() -> AttributionGraph:
    subject, task = hand_built()
    return build_task_graph(subject, task, GraphConfig(edge_threshold=0.0))


def edge(graph: AttributionGraph, source: str, target: str) -> float:
    names = [str(node) for node in graph.nodes]
    at = (graph.source == names.index(source)) & (graph.target == names.index(target))
    return float(graph.weight[at].sum())


def expected() -> dict[str, float]:
    """Work the model out for a token of size t: every norm divides by its input's root mean square."""
    sums = dict.fromkeys(("head>feature", "feature>logit", "error>logit", "head>logit", "token>head"), 0.0)
    for t in range(1, 19):
        head = COPY * 2.0  # the first norm makes [t, 0, 0, 0] into [2, 0, 0, 0]
        rms_mlp = math.sqrt((t**2 + head**2) / 4)
        pre = READ * head / rms_mlp
        out = (WRITE + SLACK) * pre
        rms_final = math.sqrt((t**2 + head**2 + out**2) / 4)
        sums["head>feature"] += pre
        sums["feature>logit"] += WRITE * pre / rms_final
        sums["error>logit"] += SLACK * pre / rms_final
        sums["head>logit"] += -0.125 * head / rms_final
        # g at the head's output by differentiating m(head) with live norms; z = 2 is all the token's doing.
        sums["token>head"] += 2.0 * COPY * slope(t, head)
    return {name: value / 18 for name, value in sums.items()}


def slope(t: float, head: float) -> float:
    """Give dm/dhead with live norms, by a central difference of the formula of m."""

    def metric(h: float) -> float:
        out = (WRITE + SLACK) * READ * h / math.sqrt((t**2 + h**2) / 4)
        return (out - 0.125 * h) / math.sqrt((t**2 + h**2 + out**2) / 4)

    return (metric(head + 1e-6) - metric(head - 1e-6)) / 2e-6


def test_every_edge_has_its_worked_out_weight(graph: AttributionGraph) -> None:
    worked = expected()
    assert edge(graph, "head.0.0@x", "feature.0.0@x") == pytest.approx(worked["head>feature"])
    assert edge(graph, "feature.0.0@x", "logit@x") == pytest.approx(worked["feature>logit"])
    assert edge(graph, "error.0@x", "logit@x") == pytest.approx(worked["error>logit"])
    assert edge(graph, "head.0.0@x", "logit@x") == pytest.approx(worked["head>logit"])
    assert edge(graph, "token@x", "head.0.0@x") == pytest.approx(worked["token>head"], abs=1e-7)
    assert len(graph.source) == 5


def test_a_feature_that_is_never_active_is_no_node(graph: AttributionGraph) -> None:
    assert [str(node) for node in graph.nodes] == ["token@x", "head.0.0@x", "feature.0.0@x", "error.0@x", "logit@x"]


def test_the_metric_is_the_sum_of_what_reaches_it(graph: AttributionGraph) -> None:
    incoming = graph.weight[graph.target == 4].sum()
    assert graph.statistics["activation"][4] == pytest.approx(incoming)


def test_a_node_that_is_the_same_on_every_prompt_scores_nothing(graph: AttributionGraph) -> None:
    head = [str(node) for node in graph.nodes].index("head.0.0@x")
    assert graph.statistics["score"][head] == pytest.approx(0.0, abs=1e-12)
    assert graph.statistics["score_gradient_activation"][head] == pytest.approx(expected()["token>head"], abs=1e-7)
