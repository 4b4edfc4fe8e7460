"""Integrated gradients are complete: the edges into a target add up to how far its scalar moves between the prompts."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hagd.errors import InvalidInputError
from hagd.graphs.attribution_graph import AttributionGraph
from hagd.graphs.nodes import Node
from hagd.interventions.activations import Subject
from hagd.models.attention import attend
from hagd.models.language_model import ACTIVATIONS
from hagd_coarsening.domain.path import stream_of
from hagd_coarsening.domain.task_graph import GraphConfig, build_task_graph, choose_prompts
from hagd_coarsening.domain.trace import Stream, Trace, trace_prompts
from hagd_coarsening.handlers import resolve
from unit.hagd_coarsening.test_closed_form import COPY, READ, edge, hand_built
from unit.hagd_coarsening.test_edges_by_intervention import SUBJECTS
from unit.hagd_coarsening.tiny import tiny_batch, tiny_task, with_discover

INTEGRATED = GraphConfig(edges_per_node=10_000, edge_threshold=0.0, source_value="difference", steps=64)


def scalar(subject: Subject, trace: Trace, stream: Stream, target: Node) -> Tensor:
    """Give the scalar of a target [batch] when it reads a stream, norms and attention live."""
    model, pos = subject.model, trace.layout.roles.index(target.role)
    if target.kind == "logit":
        final = model.norm_final(stream.final)[:, list(trace.layout.answer_positions)]
        return (final * trace.metric_direction).sum((-1, -2))
    block = model.blocks[target.layer]
    if target.kind == "head":
        x = block.norm_attention(stream.before_attention[target.layer])
        heads, _ = attend(block.attention, x, model.rotary(x.shape[1]), torch.tensor([pos]))
        return (heads[:, 0, target.index] * trace.gradients.heads[target.layer][:, pos, target.index]).sum(-1)
    x = block.norm_mlp(stream.before_mlp[target.layer])[:, pos]
    gradient = trace.gradients.mlps[target.layer][:, pos]
    if target.kind == "mlp":
        return (block.mlp(x) * gradient).sum(-1)
    dictionary = subject.dictionaries[target.layer]
    if target.kind == "skip":
        assert dictionary.w_skip is not None
        return (x @ dictionary.w_skip * gradient).sum(-1)
    up = x @ dictionary.w_enc[:, target.index]
    if dictionary.w_gate is not None:
        bias = 0.0 if dictionary.b_gate is None else dictionary.b_gate[target.index]
        inner = trace.clean.mlp_in[target.layer][:, pos] @ dictionary.w_gate[:, target.index] + bias
        up = up * ACTIVATIONS[dictionary.activation](inner)
    return up * (trace.clean.features[target.layer][:, pos, target.index] != 0)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "llama-blocks", "gpt_neox-neurons"])
def test_edges_add_up_to_how_far_the_scalar_moves(name: str) -> None:
    subject = SUBJECTS[name]()
    task = with_discover(tiny_task(), tiny_batch(("a", "b", "eq"), (2,), 17, seed=5))
    graph = build_task_graph(subject, task, INTEGRATED)
    trace = trace_prompts(subject, choose_prompts(subject, task, INTEGRATED)[0])
    clean, counterfactual = (stream_of(subject.model, run) for run in (trace.clean, trace.counterfactual))
    targets = sorted(set(graph.target.tolist()))
    assert len(targets) > 5
    for number in targets:
        moved = (scalar(subject, trace, run, graph.nodes[number]).mean() for run in (clean, counterfactual))
        there, before = map(float, moved)
        incoming = float(graph.weight[graph.target == number].sum())
        assert incoming == pytest.approx(there - before, rel=1e-4, abs=1e-5), graph.nodes[number]
    drop = float((trace.metric - trace.donor_metrics[0]).mean())
    assert float(graph.weight[graph.target == graph.n_nodes - 1].sum()) == pytest.approx(drop, rel=1e-4, abs=1e-5)


@pytest.fixture(scope="module")
def by_hand() -> AttributionGraph:
    subject, task = hand_built()
    return build_task_graph(subject, task, replace(INTEGRATED, steps=40))


def test_the_edge_into_a_feature_is_what_the_pencil_says(by_hand: AttributionGraph) -> None:
    """The head writes 1 on every prompt, so all that moves a feature is the token, through the norm's denominator."""
    features = [READ * 2 * COPY / math.sqrt((t**2 + 1) / 4) for t in range(1, 19)]
    moved = sum(here - there for here, there in zip(features, reversed(features), strict=True)) / 18
    assert edge(by_hand, "token@x", "feature.0.0@x") == pytest.approx(moved, abs=1e-6)
    assert edge(by_hand, "head.0.0@x", "feature.0.0@x") == 0


def test_with_the_denominator_held_the_token_would_not_reach_the_feature() -> None:
    subject, task = hand_built()
    held = build_task_graph(subject, task, replace(INTEGRATED, steps=1))
    names = [str(node) for node in held.nodes]
    pairs = set(zip(held.source.tolist(), held.target.tolist(), strict=True))
    assert (names.index("token@x"), names.index("feature.0.0@x")) not in pairs


def test_integration_needs_a_path() -> None:
    with pytest.raises(InvalidInputError, match="counterfactual"):
        resolve({"steps": 8})
    assert resolve({"steps": 8, "source_value": "difference"}) == {"steps": 8, "source_value": "difference"}
    subject, task = hand_built()
    with pytest.raises(InvalidInputError, match="counterfactual"):
        build_task_graph(subject, task, GraphConfig(steps=8))
