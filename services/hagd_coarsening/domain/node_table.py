"""Which nodes a task graph has, in what order, and where each tensor entry finds its node.

Nodes are sorted by stage of the network (embeddings, heads of layer 0, MLP of layer 0, heads of layer 1, ...),
then role, kind and index. Every edge therefore runs from a smaller to a larger number, and all possible sources
of a stage are a prefix; where attention and MLP of a block are parallel, the MLP's ends before the heads. Vector nodes
(everything but features) also have a `slot`: their place in one stacked tensor of output vectors, which is the same at
every position.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int

from hagd.graphs.nodes import NODE_KINDS, Node, NodeKind
from hagd.models.language_model import ModelConfig

ABSENT = -1


def stage_of(kind: NodeKind, layer: int, n_layers: int) -> int:
    """Give the place of a node in the network: 0 for tokens, 2l + 1 for heads, 2l + 2 for MLPs, then the logit."""
    match kind:
        case "token":
            return 0
        case "head":
            return 2 * layer + 1
        case "logit":
            return 2 * n_layers + 1
        case _:
            return 2 * layer + 2


def mlp_reads_before(layer: int, config: ModelConfig) -> int:
    """Give the stage before which all that the MLP of a layer reads is written: its own, or that of parallel heads."""
    return stage_of("head" if config.parallel_residual else "mlp", layer, config.n_layers)


@dataclass(frozen=True)
class NodeTable:
    """Node numbers by tensor entry; -1 marks an entry that is no node."""

    nodes: tuple[Node, ...]
    roles: tuple[str, ...]
    n_layers: int
    n_heads: int
    stages: Int[np.ndarray, " node"]
    slots: tuple[tuple[NodeKind, int, int], ...]
    """(kind, layer, head number) of every slot, by stage."""
    slot_nodes: Int[np.ndarray, "role slot"]
    feature_nodes: Mapping[int, Int[np.ndarray, "role d_feature"]]
    """Layer -> node of each feature at each role."""

    @property
    def logit(self) -> int:
        return len(self.nodes) - 1

    @cached_property
    def role_of_node(self) -> Int[np.ndarray, " node"]:
        """Give the role of every node as an index into `roles`."""
        number = {role: i for i, role in enumerate(self.roles)}
        return np.array([number[node.role] for node in self.nodes], dtype=np.int64)

    def slots_before(self, stage: int) -> int:
        """Count the slots that write before `stage`."""
        return sum(stage_of(kind, layer, self.n_layers) < stage for kind, layer, _ in self.slots)

    def nodes_before(self, stage: int) -> int:
        """Count the nodes before `stage`; they are the first ones."""
        return int(np.searchsorted(self.stages, stage))

    def live_features(self, layer: int, role: int) -> tuple[Int[np.ndarray, " feature"], Int[np.ndarray, " feature"]]:
        """Give the live features of one (layer, role) and their nodes, both ascending."""
        nodes = self.feature_nodes[layer][role]
        live = np.flatnonzero(nodes != ABSENT)
        return live, nodes[live]

    def nodes_of_slots(self, kind: NodeKind, layer: int) -> Int[np.ndarray, "role index"]:
        """Give the nodes of one kind and layer; no columns where there are none."""
        return self.slot_nodes[:, [slot[:2] == (kind, layer) for slot in self.slots]]


def build_table(
    roles: tuple[str, ...],
    logit_role: str,
    *,
    n_layers: int,
    n_heads: int,
    live: Mapping[int, Bool[np.ndarray, "role d_feature"]],
    skips: frozenset[int],
) -> NodeTable:
    """List the nodes: `live` holds, for each refined layer, which features count; other MLPs are blocks."""
    slots: list[tuple[NodeKind, int, int]] = [("token", -1, 0)]
    for layer in range(n_layers):
        slots.extend(("head", layer, head) for head in range(n_heads))
        slots.append(("error" if layer in live else "mlp", layer, 0))
        if layer in live and layer in skips:
            slots.append(("skip", layer, 0))
    keyed: list[tuple[tuple[int, int, int, int], Node]] = []
    for number, role in enumerate(roles):
        here = [Node(kind, layer, role, index) for kind, layer, index in slots]
        for layer, alive in live.items():
            here += [Node("feature", layer, role, index) for index in np.flatnonzero(alive[number]).tolist()]
        keyed += [_key(node, number, n_layers) for node in here]
    keyed.append(_key(Node("logit", n_layers, logit_role), roles.index(logit_role), n_layers))
    keyed.sort(key=lambda pair: pair[0])
    nodes = tuple(node for _, node in keyed)
    places = {node: place for place, node in enumerate(nodes)}
    feature_nodes: dict[int, Int[np.ndarray, "role d_feature"]] = {}
    for layer, alive in live.items():
        found = np.full(alive.shape, ABSENT, dtype=np.int64)
        for number, index in np.argwhere(alive).tolist():
            found[number, index] = places[Node("feature", layer, roles[number], index)]
        feature_nodes[layer] = found
    return NodeTable(
        nodes=nodes,
        roles=roles,
        n_layers=n_layers,
        n_heads=n_heads,
        stages=np.array([key[0] for key, _ in keyed], dtype=np.int64),
        slots=tuple(slots),
        slot_nodes=np.array([[places[Node(k, la, role, i)] for k, la, i in slots] for role in roles], dtype=np.int64),
        feature_nodes=feature_nodes,
    )


def _key(node: Node, role: int, n_layers: int) -> tuple[tuple[int, int, int, int], Node]:
    return (stage_of(node.kind, node.layer, n_layers), role, NODE_KINDS.index(node.kind), node.index), node
