"""Every edge equals the effect of an intervention: take the source's vector away, clamp everything else.

The residual stream is rebuilt as the sum of what nodes write plus constants, so the tests also check that the
nodes account for all of it. Attention patterns (where the scalar does not define them) and norm denominators are
frozen. Scalars that are linear are checked by full removal, the others by a central difference.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hagd.graphs.nodes import Node
from hagd.interventions.activations import Subject, record
from hagd.models.attention import attend
from hagd.models.language_model import ACTIVATIONS, Norm
from hagd_coarsening.domain.node_table import stage_of
from hagd_coarsening.domain.task_graph import GraphConfig, build_task_graph, choose_prompts
from hagd_coarsening.domain.trace import Trace, trace_prompts
from unit.hagd_coarsening.tiny import neuron_subject, tiny_batch, tiny_subject, tiny_task, with_discover

KEEP_ALL = GraphConfig(edges_per_node=10_000, edge_threshold=0.0)
SUBJECTS: dict[str, Callable[[], Subject]] = {
    "gpt2": lambda: tiny_subject("gpt2"),
    "llama": lambda: tiny_subject("llama"),
    "gpt_neox": lambda: tiny_subject("gpt_neox"),
    "gpt2-neurons": lambda: neuron_subject("gpt2"),
    "llama-neurons": lambda: neuron_subject("llama"),
    "gpt_neox-neurons": lambda: neuron_subject("gpt_neox"),
    "gpt2-blocks": lambda: Subject(tiny_subject("gpt2").model),
    "llama-blocks": lambda: Subject(tiny_subject("llama").model),
    "gpt_neox-blocks": lambda: Subject(tiny_subject("gpt_neox").model),
}


def frozen_norm(norm: Norm, resid: Tensor, scale: Tensor) -> Tensor:
    centred = resid - resid.mean(-1, keepdim=True) if norm.kind == "layer" else resid
    out = centred * scale * norm.gain
    return out if norm.bias is None else out + norm.bias


class LocalModel:
    """The writes of all nodes on some prompts, and the scalars that targets read off their sum."""

    def __init__(self, subject: Subject, trace: Trace) -> None:
        self.subject, self.trace, self.model = subject, trace, subject.model
        self._writes: dict[Node, Tensor] = {}

    def write(self, node: Node) -> Tensor:
        if node not in self._writes:
            self._writes[node] = self._write(node)
        return self._writes[node]

    def _write(self, node: Node) -> Tensor:
        """Give what a node writes at its position, [batch, d_model]."""
        clean, pos = self.trace.clean, self.trace.layout.roles.index(node.role)
        match node.kind:
            case "token":
                return clean.embed[:, pos]
            case "head":
                w_o = self.model.blocks[node.layer].attention.w_o[node.index]
                return clean.heads[node.layer][:, pos, node.index] @ w_o
            case "feature":
                row = self.subject.dictionaries[node.layer].w_dec[node.index]
                return clean.features[node.layer][:, pos, node.index, None] * row
            case "error":
                return clean.errors[node.layer][:, pos]
            case "skip":
                return clean.skips[node.layer][:, pos]
            case _:
                return clean.mlp_out[node.layer][:, pos]

    def residual(self, target: Node, nodes: tuple[Node, ...], scale: dict[Node, float]) -> Tensor:
        """Sum up what is written before the target reads; `scale` multiplies the writes of some nodes."""
        stage = stage_of(target.kind, target.layer, self.model.config.n_layers)
        if self.model.config.parallel_residual and target.kind in {"feature", "skip", "mlp"}:
            stage -= 1
        model, n_layers = self.model, self.model.config.n_layers
        roles = self.trace.layout.roles
        resid = torch.zeros_like(self.trace.clean.embed) + model.position_part(len(roles))
        for layer, block in enumerate(model.blocks):
            if stage_of("head", layer, n_layers) < stage and block.attention.b_o is not None:
                resid = resid + block.attention.b_o
            if stage_of("mlp", layer, n_layers) < stage and layer in self.subject.dictionaries:
                resid = resid + self.subject.dictionaries[layer].b_dec
        for node in nodes:
            if node.role in roles and stage_of(node.kind, node.layer, n_layers) < stage:
                resid[:, roles.index(node.role)] += scale.get(node, 1.0) * self.write(node)
        return resid

    def scalar(self, target: Node, resid: Tensor) -> Tensor:
        """Give the target's scalar [batch] when it reads `resid`."""
        trace, model, pos = self.trace, self.model, self.trace.layout.roles.index(target.role)
        if target.kind == "logit":
            final = frozen_norm(model.norm_final, resid, trace.final_scale)
            return (final[:, list(trace.layout.answer_positions)] * trace.metric_direction).sum((-1, -2))
        block = model.blocks[target.layer]
        if target.kind == "head":
            x = frozen_norm(block.norm_attention, resid, trace.attention_scale[target.layer])
            heads, _ = attend(block.attention, x, model.rotary(x.shape[1]), torch.tensor([pos]))
            return (heads[:, 0, target.index] * trace.gradients.heads[target.layer][:, pos, target.index]).sum(-1)
        x = frozen_norm(block.norm_mlp, resid, trace.mlp_scale[target.layer])[:, pos]
        gradient = trace.gradients.mlps[target.layer][:, pos]
        if target.kind == "mlp":
            return (block.mlp(x) * gradient).sum(-1)
        dictionary = self.subject.dictionaries[target.layer]
        if target.kind == "skip":
            assert dictionary.w_skip is not None
            return (x @ dictionary.w_skip * gradient).sum(-1)
        up = x @ dictionary.w_enc[:, target.index] + dictionary.b_enc[target.index]
        if dictionary.w_gate is not None:
            bias = 0.0 if dictionary.b_gate is None else dictionary.b_gate[target.index]
            clean = trace.clean.mlp_in[target.layer][:, pos]
            up = up * ACTIVATIONS[dictionary.activation](clean @ dictionary.w_gate[:, target.index] + bias)
        return up * (trace.clean.features[target.layer][:, pos, target.index] != 0)

    def effect(self, nodes: tuple[Node, ...], source: Node, target: Node) -> Tensor:
        """Give what the scalar owes to the source, [batch]."""
        step = 1e-4 if target.kind in {"head", "mlp"} else 0.5
        up = self.scalar(target, self.residual(target, nodes, {source: 1 + step}))
        down = self.scalar(target, self.residual(target, nodes, {source: 1 - step}))
        return (up - down) / (2 * step)


@pytest.mark.parametrize("name", SUBJECTS)
def test_every_edge_is_the_effect_of_taking_its_source_away(name: str) -> None:
    subject = SUBJECTS[name]()
    task = with_discover(tiny_task(), tiny_batch(("a", "b", "c", "eq"), (2, 3), 17, seed=5))
    graph = build_task_graph(subject, task, KEEP_ALL)
    trace = trace_prompts(subject, choose_prompts(subject, task, KEEP_ALL)[0])
    local = LocalModel(subject, trace)
    found = {(s, t): i for i, (s, t) in enumerate(zip(graph.source.tolist(), graph.target.tolist(), strict=True))}
    generator = torch.Generator().manual_seed(0)
    targets = sorted(set(graph.target.tolist()))
    some = sorted({targets[i] for i in torch.randperm(len(targets), generator=generator)[:40].tolist()} | {targets[-1]})
    checked = 0
    for target in some:
        for source in torch.randperm(target, generator=generator)[:7].tolist():
            effect = local.effect(graph.nodes, graph.nodes[source], graph.nodes[target])
            at = found.get((source, target))
            signed, absolute = (0.0, 0.0) if at is None else (graph.weight[at], graph.weight_abs[at])
            assert signed == pytest.approx(float(effect.mean()), abs=1e-6), (graph.nodes[source], graph.nodes[target])
            assert absolute == pytest.approx(float(effect.abs().mean()), abs=1e-6)
            checked += at is not None
    assert checked > 20


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox"])
def test_incoming_edges_and_constants_sum_to_the_scalar_of_linear_targets(name: str) -> None:
    subject = SUBJECTS[name]()
    task = with_discover(tiny_task(), tiny_batch(("a", "b", "eq"), (2,), 17, seed=5))
    graph = build_task_graph(subject, task, KEEP_ALL)
    local = LocalModel(subject, trace_prompts(subject, choose_prompts(subject, task, KEEP_ALL)[0]))
    nothing = dict.fromkeys(graph.nodes, 0.0)
    for number in sorted(set(graph.target.tolist())):
        target = graph.nodes[number]
        if target.kind in {"head", "mlp"}:
            continue
        whole = local.scalar(target, local.residual(target, graph.nodes, {})).mean()
        constant = local.scalar(target, local.residual(target, graph.nodes, nothing)).mean()
        incoming = graph.weight[graph.target == number].sum()
        assert incoming + float(constant) == pytest.approx(float(whole), abs=1e-9)
    logit = graph.nodes[-1]
    metric = local.scalar(logit, local.residual(logit, graph.nodes, {})).mean()
    assert float(metric) == pytest.approx(float(local.trace.metric.mean()), abs=1e-9)


@pytest.mark.parametrize("name", SUBJECTS)
def test_what_is_written_before_an_mlp_adds_up_to_what_it_reads_in_the_real_model(name: str) -> None:
    subject = SUBJECTS[name]()
    task = with_discover(tiny_task(), tiny_batch(("a", "b", "eq"), (2,), 17, seed=5))
    graph = build_task_graph(subject, task, KEEP_ALL)
    local = LocalModel(subject, trace_prompts(subject, choose_prompts(subject, task, KEEP_ALL)[0]))
    run = record(subject, task.batches["discover"][0].clean, (2,), keep_mlp_in=True)
    for layer, block in enumerate(subject.model.blocks):
        resid = local.residual(Node("mlp", layer, "eq"), graph.nodes, {})
        read = frozen_norm(block.norm_mlp, resid, local.trace.mlp_scale[layer])
        torch.testing.assert_close(read, run.mlp_in[layer], atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", SUBJECTS)
def test_heads_feed_the_mlp_of_their_own_layer_only_where_it_comes_after_them(name: str) -> None:
    subject = SUBJECTS[name]()
    graph = build_task_graph(subject, tiny_task(), KEEP_ALL)
    edges = zip(graph.source.tolist(), graph.target.tolist(), strict=True)
    ends = [(graph.nodes[source], graph.nodes[target]) for source, target in edges]
    layers = {
        a.layer for a, b in ends if a.kind == "head" and b.kind in {"feature", "skip", "mlp"} and a.layer == b.layer
    }
    assert layers == (set() if subject.model.config.parallel_residual else {0, 1})
    assert any(a.kind == "head" and b.kind in {"feature", "mlp"} and a.layer < b.layer for a, b in ends)
    assert any(a.kind in {"feature", "mlp"} and b.kind == "head" for a, b in ends)


def test_the_difference_form_weighs_what_changes_between_clean_and_counterfactual() -> None:
    subject = SUBJECTS["llama"]()
    task = with_discover(tiny_task(), tiny_batch(("a", "b", "eq"), (2,), 17, seed=5))
    batch = task.batches["discover"][0]
    same = type(batch)(batch.layout, batch.clean, batch.clean, batch.answers, batch.foils, batch.groups)
    config = GraphConfig(edges_per_node=10_000, edge_threshold=0.0, source_value="difference")
    assert len(build_task_graph(subject, with_discover(task, same), config).weight) == 0
    graph = build_task_graph(subject, task, config)
    logit = graph.n_nodes - 1
    into = {graph.nodes[s].kind: 0.0 for s in graph.source[graph.target == logit]}
    assert {"head", "feature", "error"} <= set(into)
