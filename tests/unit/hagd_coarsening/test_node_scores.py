"""Node scores are the gradient of the metric with respect to the gates of the full circuit, in one backward."""

import pytest
import torch

from hagd.errors import NonFiniteError
from hagd.interventions.activations import record
from hagd.interventions.engine import run_circuit
from hagd.interventions.gates import Gates
from hagd_coarsening.domain.task_graph import GraphConfig, build_task_graph, choose_prompts
from unit.hagd_coarsening.tiny import tiny_batch, tiny_subject, tiny_task, with_discover

CONFIG = GraphConfig(prompts=18, seed=3)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gpt_neox"])
def test_scores_equal_gate_gradients_averaged_over_both_donors(architecture: str) -> None:
    subject = tiny_subject(architecture)
    roles = ("a", "b", "eq")
    task = with_discover(tiny_task(), tiny_batch(roles, (1, 2), 19, seed=7))
    graph = build_task_graph(subject, task, CONFIG)
    prompts = choose_prompts(subject, task, CONFIG)[0]
    batch = prompts.batch
    assert len(batch) == 18

    total: list[torch.Tensor] = []
    for donor_tokens in (batch.counterfactual, prompts.unpaired):
        donor = record(subject, donor_tokens, (1, 2))
        gates = Gates.full(subject, 3, 1.0).map(lambda gate: gate.double().requires_grad_())
        logits = run_circuit(subject, batch.clean, (1, 2), donor, gates).logits
        metric = (logits.gather(-1, batch.answers[..., None])[..., 0] - logits.gather(-1, batch.foils).mean(-1)).sum()
        found = torch.autograd.grad(metric, gates.tensors(), allow_unused=True, materialize_grads=True)
        total = [a + b for a, b in zip(total, found, strict=True)] if total else list(found)
    tokens, heads, _, errors, skips, *features = (value / (2 * len(batch)) for value in total)
    for number, node in enumerate(graph.nodes[:-1]):
        pos = roles.index(node.role)
        at_node = {
            "token": tokens[pos],
            "head": heads[node.layer, pos, node.index % 6],
            "error": errors[node.layer, pos],
            "skip": skips[node.layer, pos],
        }
        expected = features[node.layer][pos, node.index] if node.kind == "feature" else at_node[node.kind]
        assert graph.statistics["score"][number] == pytest.approx(float(expected), abs=1e-9), node
    assert (graph.statistics["score_abs"] >= abs(graph.statistics["score"]) - 1e-12).all()


def test_statistics_average_over_all_prompts_zeros_included() -> None:
    subject = tiny_subject("gpt2")
    task = tiny_task()
    graph = build_task_graph(subject, task, GraphConfig())
    numbers = {str(node): i for i, node in enumerate(graph.nodes)}
    frequency = graph.statistics["frequency"]
    assert graph.n_prompts == 38
    assert frequency[numbers["token@c"]] == 0.5
    assert frequency[numbers["head.1.5@eq"]] == 1.0
    features = [i for i, node in enumerate(graph.nodes) if node.kind == "feature"]
    assert frequency[features].min() > 0
    assert frequency[features].max() <= 1
    second = [
        record(subject, batch.clean, (0,)).features[1][:, batch.layout.roles.index("b")]
        for batch in task.batches["discover"]
    ]
    live = torch.cat(second)
    for index in range(13):
        name = f"feature.1.{index}@b"
        if (live[:, index] != 0).any():
            assert frequency[numbers[name]] == pytest.approx(float((live[:, index] != 0).double().mean()))
            assert graph.statistics["activation"][numbers[name]] == pytest.approx(float(live[:, index].mean()))
        else:
            assert name not in numbers


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_influence_is_the_share_of_flow_into_the_logit(architecture: str) -> None:
    config = GraphConfig(edges_per_node=10_000, edge_threshold=0.0)
    graph = build_task_graph(tiny_subject(architecture), tiny_task(), config)
    incoming = torch.zeros(graph.n_nodes, dtype=torch.float64)
    incoming.index_add_(0, torch.from_numpy(graph.target), torch.from_numpy(graph.weight_abs))
    flow = torch.zeros(graph.n_nodes, graph.n_nodes, dtype=torch.float64)
    flow[graph.target, graph.source] = torch.from_numpy(graph.weight_abs) / incoming[graph.target]
    inverse = torch.linalg.inv(torch.eye(graph.n_nodes, dtype=torch.float64) - flow)
    assert torch.from_numpy(graph.statistics["influence"]).allclose(inverse[-1])


def test_only_the_strongest_edges_into_a_node_are_kept() -> None:
    whole = build_task_graph(tiny_subject("gpt2"), tiny_task(), GraphConfig(edges_per_node=10_000, edge_threshold=0.0))
    thin = build_task_graph(tiny_subject("gpt2"), tiny_task(), GraphConfig(edges_per_node=3))
    logit = whole.n_nodes - 1
    for target in set(thin.target.tolist()) - {logit}:
        kept = sorted(thin.weight_abs[thin.target == target])
        assert kept == sorted(whole.weight_abs[whole.target == target])[-len(kept) :]
        assert 1 <= len(kept) <= 3
    assert (thin.target == logit).sum() > 3
    assert (thin.source < thin.target).all()


def test_a_model_that_diverges_is_an_error_and_no_graph() -> None:
    subject = tiny_subject("gpt2")
    subject.model.unembed[3, :] = torch.nan
    with pytest.raises(NonFiniteError, match="NaN"):
        build_task_graph(subject, tiny_task(), GraphConfig())
