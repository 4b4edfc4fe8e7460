"""The attention layer against its equation, node by node, and against an independent implementation."""

import math

import pytest
import torch

from hagd_traversal.membership.attention import GraphAttention, softmax_over_targets

WIDTH, HEADS, EDGE_WIDTH, NODES, EDGES = 6, 2, 3, 7, 17


def random_layer_and_graph() -> tuple[GraphAttention, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    layer = GraphAttention(WIDTH, HEADS, EDGE_WIDTH)
    for parameter in layer.parameters():
        parameter.data.normal_(generator=generator)
    edges = torch.randint(0, NODES - 1, (2, EDGES), generator=generator)
    nodes = torch.randn(NODES, WIDTH, generator=generator)
    return layer, nodes, edges, torch.randn(EDGES, EDGE_WIDTH, generator=generator)


@torch.no_grad()
def test_every_node_receives_the_mean_that_the_equation_gives() -> None:
    layer, nodes, edges, features = random_layer_and_graph()
    result = layer(nodes, edges, features)
    size = WIDTH // HEADS
    for target in range(NODES):
        incoming = [e for e in range(EDGES) if int(edges[1, e]) == target]
        expected = layer.bias.clone()
        for head in range(HEADS):
            here = slice(head * size, (head + 1) * size)
            logits, sent = [], []
            for e in incoming:
                message = layer.send(nodes[edges[0, e]])
                mixed = message + layer.receive(nodes[target]) + layer.edge(features[e])
                mixed = torch.where(mixed > 0, mixed, 0.2 * mixed)
                logits.append(float(mixed[here] @ layer.attend[head]))
                sent.append(message[here])
            total = sum(math.exp(value) for value in logits)
            for value, message in zip(logits, sent, strict=True):
                expected[here] += math.exp(value) / total * message
        assert torch.allclose(result[target], expected, atol=1e-5)


def test_shares_of_a_target_sum_to_one_even_for_huge_logits() -> None:
    target = torch.tensor([0, 0, 2])
    share = softmax_over_targets(torch.tensor([[1e4], [1e4], [-1e4]]), target, 3)
    assert torch.allclose(share.flatten(), torch.tensor([0.5, 0.5, 1.0]))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
@torch.no_grad()
def test_it_agrees_with_torch_geometric() -> None:
    from torch_geometric.nn import GATv2Conv  # noqa: PLC0415 - its import takes longer than all other tests here

    layer, nodes, edges, features = random_layer_and_graph()
    other = GATv2Conv(WIDTH, WIDTH // HEADS, heads=HEADS, edge_dim=EDGE_WIDTH, add_self_loops=False)
    other.lin_l.load_state_dict(layer.send.state_dict())
    other.lin_r.load_state_dict(layer.receive.state_dict())
    other.lin_edge.load_state_dict(layer.edge.state_dict())
    other.att.data.copy_(layer.attend[None])
    other.bias.data.copy_(layer.bias)
    assert torch.allclose(layer(nodes, edges, features), other(nodes, edges, features), atol=1e-5)
