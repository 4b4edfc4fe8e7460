"""The universe of a task as one flat axis: every node that a circuit may hold, with its place in `Gates`.

A circuit is then a vector over this axis, at roles; `gates_at` spreads it over the positions of a layout.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hagd.errors import InvalidInputError
from hagd.graphs.nodes import Node, NodeKind
from hagd.interventions.activations import Subject
from hagd.interventions.gates import Gates
from hagd.tasks.task import Layout

_ORDER: tuple[NodeKind, ...] = ("token", "head", "mlp", "error", "skip", "feature")


@dataclass(frozen=True)
class Universe:
    """Flat layout of the gate tensors of a subject at the roles of a task.

    The axis holds tokens, heads (layer, role, head), blocks, errors and skips (layer, role), then features
    (role, feature) layer by layer. Entries that do not exist (a block at a refined place) are never used.
    """

    n_layers: int
    n_heads: int
    roles: tuple[str, ...]
    feature_counts: tuple[tuple[int, int], ...]
    """(layer, number of features) of every layer with a dictionary, ascending."""
    refined: Bool[Tensor, "layer role"]
    has_skip: frozenset[int] = frozenset()

    @staticmethod
    def of(subject: Subject, roles: tuple[str, ...], refined: Bool[Tensor, "layer role"]) -> "Universe":
        """Describe the universe of `subject`; `refined` marks where MLPs are resolved into features."""
        for layer in refined.any(1).nonzero().flatten().tolist():
            if layer not in subject.dictionaries:
                raise InvalidInputError(f"layer {layer} is to be refined but has no dictionary", "train one first")
        config = subject.model.config
        return Universe(
            config.n_layers,
            config.n_heads,
            roles,
            tuple((layer, subject.dictionaries[layer].n_features) for layer in sorted(subject.dictionaries)),
            refined,
            frozenset(layer for layer, d in subject.dictionaries.items() if d.w_skip is not None),
        )

    @cached_property
    def _sizes(self) -> list[int]:
        cells = self.n_layers * len(self.roles)
        features = [count * len(self.roles) for _, count in self.feature_counts]
        return [len(self.roles), cells * self.n_heads, cells, cells, cells, *features]

    @cached_property
    def _starts(self) -> list[int]:
        return [sum(self._sizes[:i]) for i in range(len(self._sizes))]

    def __len__(self) -> int:
        return sum(self._sizes)

    @cached_property
    def layers(self) -> Int[Tensor, " node"]:
        """Layer of every entry; -1 for tokens."""
        return self._per_entry[0]

    @cached_property
    def role_ids(self) -> Int[Tensor, " node"]:
        """Role of every entry, as an index into `roles`."""
        return self._per_entry[1]

    @cached_property
    def kinds(self) -> Int[Tensor, " node"]:
        """Kind of every entry, as an index into ("token", "head", "mlp", "error", "skip", "feature")."""
        return self._per_entry[2]

    @cached_property
    def indices(self) -> Int[Tensor, " node"]:
        """Head or feature number of every entry; 0 for other kinds."""
        return self._per_entry[3]

    @cached_property
    def exists(self) -> Bool[Tensor, " node"]:
        """Whether the entry is a node: blocks where not refined; features, errors and skips where refined."""
        at = self.refined[self.layers.clamp(min=0), self.role_ids]
        skippable = torch.tensor([layer in self.has_skip for layer in range(self.n_layers)])[self.layers.clamp(min=0)]
        kinds = self.kinds
        return (
            (kinds <= 1)
            | ((kinds == 2) & ~at)
            | ((kinds == 3) & at)
            | ((kinds == 4) & at & skippable)
            | ((kinds == 5) & at)
        )

    @cached_property
    def _per_entry(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        roles = torch.arange(len(self.roles))
        layers = torch.arange(self.n_layers)

        def grid(kind: int, layer: Tensor, count: int) -> list[Tensor]:
            mesh = torch.meshgrid(layer, roles, torch.arange(count), indexing="ij")
            flat = [axis.flatten() for axis in mesh]
            return [flat[0], flat[1], torch.full_like(flat[0], kind), flat[2]]

        parts = [grid(0, torch.tensor([-1]), 1), grid(1, layers, self.n_heads)]
        parts += [grid(kind, layers, 1) for kind in (2, 3, 4)]
        parts += [grid(5, torch.tensor([layer]), count) for layer, count in self.feature_counts]
        stacked = [torch.cat([part[i] for part in parts]) for i in range(4)]
        return stacked[0], stacked[1], stacked[2], stacked[3]

    def node(self, entry: int) -> Node:
        """Name one entry."""
        kind = _ORDER[int(self.kinds[entry])]
        role = self.roles[int(self.role_ids[entry])]
        return Node(kind, int(self.layers[entry]), role, int(self.indices[entry]))

    def entry(self, node: Node) -> int:
        """Find the entry of a node.

        Raises:
            InvalidInputError: the node is not of this universe.
        """
        cells = len(self.roles)
        try:
            role = self.roles.index(node.role)
            slot = _ORDER.index(node.kind)
            match node.kind:
                case "token":
                    return role
                case "head":
                    return self._starts[1] + (node.layer * cells + role) * self.n_heads + node.index
                case "feature":
                    place = [layer for layer, _ in self.feature_counts].index(node.layer)
                    return self._starts[5 + place] + role * self.feature_counts[place][1] + node.index
                case _:
                    return self._starts[slot] + node.layer * cells + role
        except ValueError as error:
            raise InvalidInputError(
                f"node {node} is not of this model and task", "check the layer, the role and the dictionary"
            ) from error

    def vector(self, nodes: Iterable[Node]) -> Float[Tensor, " node"]:
        """Give 1 at the entries of `nodes` and 0 elsewhere."""
        gates = torch.zeros(len(self))
        gates[[self.entry(node) for node in nodes]] = 1.0
        return gates

    def gates_at(self, values: Float[Tensor, "*circuit node"], layout: Layout) -> Gates:
        """Spread gate values at roles over the positions of a layout. Differentiable in `values`.

        With one leading axis (several circuits) a broadcast axis for prompts is inserted after it.
        """
        if values.dim() > 1:
            values = values.unsqueeze(-2)
        at = torch.tensor([self.roles.index(role) for role in layout.roles])
        lead = values.shape[:-1]
        parts = values.split(self._sizes, dim=-1)
        n_roles = len(self.roles)
        cells = (*lead, self.n_layers, n_roles)
        tokens = parts[0][..., at]
        heads = parts[1].reshape(*cells, self.n_heads)[..., at, :]
        mlps, errors, skips = (part.reshape(cells)[..., at] for part in parts[2:5])
        features = {
            layer: part.reshape(*lead, n_roles, count)[..., at, :]
            for (layer, count), part in zip(self.feature_counts, parts[5:], strict=True)
        }
        return Gates(tokens, heads, mlps, features, errors, skips, self.refined[:, at])

    def coarsened(self, refined: Bool[Tensor, "layer role"]) -> "Universe":
        """Give the same axis with other places refined."""
        return replace(self, refined=refined)
