"""One round of graph attention (GATv2: Brody, Alon and Yahav 2022, equation 7), with edge features.

Written out here because importing a graph library takes longer than scoring any graph; a test compares it with
`torch_geometric.nn.GATv2Conv` number by number.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

_SLOPE = 0.2


class GraphAttention(nn.Module):
    """Every node takes a weighted mean of what its sources send; the weights depend on both ends and on the edge."""

    def __init__(self, width: int, heads: int, edge_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.send = nn.Linear(width, width)
        self.receive = nn.Linear(width, width)
        self.edge = nn.Linear(edge_width, width, bias=False)
        self.attend = nn.Parameter(torch.empty(heads, width // heads))
        nn.init.xavier_uniform_(self.attend)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(
        self,
        nodes: Float[Tensor, "node width"],
        edges: Int[Tensor, "2 edge"],
        edge_features: Float[Tensor, "edge feature"],
    ) -> Float[Tensor, "node width"]:
        """Pass messages along `edges` (row 0: source, row 1: target); a node without sources receives the bias.

        e = a · leaky_relu(W_s x_source + W_t x_target + W_e edge), softmax of e over the edges into a target.
        """
        source, target = edges
        sent = self.send(nodes).index_select(0, source)
        received = self.receive(nodes).index_select(0, target)
        mixed = nn.functional.leaky_relu(sent + received + self.edge(edge_features), _SLOPE)
        logits = (mixed.unflatten(-1, (self.heads, -1)) * self.attend).sum(-1)
        share = softmax_over_targets(logits, target, len(nodes))
        messages = (sent.unflatten(-1, (self.heads, -1)) * share[..., None]).flatten(-2)
        return torch.zeros_like(nodes).index_add(0, target, messages) + self.bias


def softmax_over_targets(
    logits: Float[Tensor, "edge head"], target: Int[Tensor, " edge"], n_nodes: int
) -> Float[Tensor, "edge head"]:
    """Normalise over the edges into each node."""
    index = target[:, None].expand_as(logits)
    largest = logits.new_full((n_nodes, logits.shape[1]), -torch.inf)
    largest = largest.scatter_reduce(0, index, logits.detach(), "amax")
    weight = (logits - largest.index_select(0, target)).exp()
    total = torch.zeros_like(largest).index_add(0, target, weight)
    return weight / total.index_select(0, target)
