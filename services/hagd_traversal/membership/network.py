"""A bidirectional GATv2 with the same weights at every level: which groups belong to the circuit?

Separate weights per direction, since what feeds a node and what it feeds mean different things. The default
checkpoint ships beside this file; `python -m hagd_traversal.membership.training` makes it anew. A linear path from a
node's own features stands beside the graph's, so that few examples suffice for what needs no neighbours.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor, nn

from hagd.artifacts.document import Document
from hagd.errors import CorruptArtifactError
from hagd.graphs.attribution_graph import AttributionGraph
from hagd.graphs.hierarchy import Hierarchy
from hagd_traversal.membership.attention import GraphAttention
from hagd_traversal.membership.features import EDGE_FEATURES, NODE_FEATURES, LevelGraph, level_graphs

CHECKPOINT = Path(__file__).with_name("checkpoint.safetensors")
_WIDTH = 32
_HEADS = 4


class MembershipNetwork(nn.Module):
    """Two rounds of attention in each direction, then a score per node, beside a linear one of its own features."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(len(NODE_FEATURES), _WIDTH)
        self.forward_rounds = nn.ModuleList([_attention() for _ in range(2)])
        self.backward_rounds = nn.ModuleList([_attention() for _ in range(2)])
        self.direct = nn.Linear(len(NODE_FEATURES), 1)
        self.leave = nn.Sequential(nn.Linear(2 * _WIDTH, _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, 1))
        self.temperature = nn.Parameter(torch.ones(()), requires_grad=False)

    def forward(self, graph: LevelGraph) -> Float[Tensor, " cluster"]:
        """Give the logit of membership of every group, divided by the calibration temperature."""
        first = hidden = torch.relu(self.enter(graph.nodes))
        turned = graph.edges.flip(0)
        for onward, back in zip(self.forward_rounds, self.backward_rounds, strict=True):
            update = onward(hidden, graph.edges, graph.edge_features) + back(hidden, turned, graph.edge_features)
            hidden = torch.relu(hidden + update)
        score = self.direct(graph.nodes) + self.leave(torch.cat([first, hidden], dim=-1))
        return score.squeeze(-1) / self.temperature


def _attention() -> GraphAttention:
    return GraphAttention(_WIDTH, _HEADS, len(EDGE_FEATURES))


def load_network(path: Path = CHECKPOINT) -> MembershipNetwork:
    """Load a checkpoint.

    Raises:
        CorruptArtifactError: the file is missing, damaged, or was trained on other features.
    """
    network = MembershipNetwork()
    try:
        with safe_open(path, "pt") as file:
            described = json.loads((file.metadata() or {}).get("hagd", "{}"))
            network.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 - not a dict
    except Exception as error:
        raise CorruptArtifactError(
            f"the membership checkpoint {path.name} cannot be read: {error}", "reinstall hagd, or train a new one"
        ) from error
    if described.get("node_features") != list(NODE_FEATURES):
        raise CorruptArtifactError(
            f"the membership checkpoint {path.name} was trained on other features", "train it anew"
        )
    return network.eval()


def save_network(network: MembershipNetwork, path: Path, described: Mapping[str, Any]) -> None:
    """Write a checkpoint; `described` says what it was trained on and must hold `node_features`."""
    tensors = {name: value.detach().numpy() for name, value in network.state_dict().items()}
    path.write_bytes(Document(dict(described), tensors).encode())


@torch.no_grad()
def membership_scores(
    graph: AttributionGraph, hierarchy: Hierarchy, network: MembershipNetwork | None = None
) -> list[Float[np.ndarray, " cluster"]]:
    """Give the probability of membership of every group, per level, finest first."""
    network = network or load_network()
    return [torch.sigmoid(network(level)).double().numpy() for level in level_graphs(graph, hierarchy)]


def leaf_scores(scores: list[Float[np.ndarray, " cluster"]], hierarchy: Hierarchy) -> Float[np.ndarray, " node"]:
    """Carry the levels' scores to the leaves: the mean of the leaf's own score and its ancestors' average."""
    own = scores[0]
    above = [scores[level][hierarchy.members(level)] for level in range(1, len(scores))]
    return own if not above else (own + np.mean(above, axis=0)) / 2
