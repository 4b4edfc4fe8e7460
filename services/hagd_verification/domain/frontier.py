"""The circuit under test, read against the universe of its own model: what runs live at every size."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hagd.dictionaries.dictionary import Dictionary
from hagd.errors import InvalidInputError
from hagd.graphs.circuit import Circuit, CircuitNode
from hagd.interventions.activations import Subject
from hagd.interventions.universe import Universe
from hagd.models.language_model import LanguageModel
from hagd.tasks.task import Task


@dataclass(frozen=True)
class Frontier:
    """A nested family of circuits over one universe. Errors of refined blocks are named but never live."""

    circuit: Circuit
    subject: Subject
    universe: Universe

    @staticmethod
    def of(circuit: Circuit, model: LanguageModel, dictionaries: Mapping[int, Dictionary], task: Task) -> "Frontier":
        """Build the universe that the circuit was found in.

        Raises:
            InvalidInputError: a node or a refined place does not belong to the model and the task.
        """
        refined = refined_places(circuit, model.config.n_layers, task.roles)
        layers = refined.any(1).nonzero().flatten().tolist()
        used = {layer: dictionaries[layer] for layer in layers if layer in dictionaries}
        subject = Subject(model, used)
        found = Frontier(circuit, subject, Universe.of(subject, task.roles, refined))
        found.check()
        return found

    def check(self) -> None:
        """Refuse a circuit of impossible size, or with a node that is not of the universe."""
        if not 1 <= self.circuit.size <= len(self.circuit.nodes):
            raise InvalidInputError(
                f"the circuit claims {self.circuit.size} of {len(self.circuit.nodes)} nodes", "run the search again"
            )
        for node in self.circuit.nodes:
            for leaf in node.leaves:
                if leaf.layer >= self.universe.n_layers or not bool(self.universe.exists[self.universe.entry(leaf)]):
                    raise InvalidInputError(
                        f"{leaf} is no node at the circuit's resolution",
                        "a whole block may not stand where the circuit refines it, nor a feature elsewhere",
                    )

    @property
    def chosen(self) -> tuple[CircuitNode, ...]:
        """The circuit proper."""
        return self.circuit.nodes[: self.circuit.size]

    @cached_property
    def _vectors(self) -> dict[int, Tensor]:
        return {}

    def vector(self, size: int | None = None) -> Float[Tensor, " node"]:
        """Give the live nodes of the first `size` nodes of the family (the circuit's own size by default)."""
        size = self.circuit.size if size is None else size
        if size not in self._vectors:
            leaves = [leaf for node in self.circuit.nodes[:size] for leaf in node.leaves if leaf.kind != "error"]
            self._vectors[size] = self.universe.vector(leaves)
        return self._vectors[size]

    def leaves(self, size: int | None = None) -> int:
        """Count what the nodes hide: features, errors and skips of whole blocks included."""
        return sum(node.n_leaves for node in self.circuit.nodes[: self.circuit.size if size is None else size])

    def by_kind(self) -> dict[str, int]:
        """Count the circuit's nodes by kind."""
        return dict(sorted(Counter(node.kind for node in self.chosen).items()))

    @property
    def has_features(self) -> bool:
        return bool((self.vector()[self.universe.kinds == 5] != 0).any())

    @property
    def is_refined(self) -> bool:
        """Say whether any block is resolved into features, so that errors exist at all."""
        return bool(self.universe.refined.any())


def refined_places(circuit: Circuit, n_layers: int, roles: tuple[str, ...]) -> Bool[Tensor, "layer role"]:
    """Mark where the circuit resolves MLPs into features."""
    refined = torch.zeros(n_layers, len(roles), dtype=torch.bool)
    for layer, names in circuit.refined.items():
        for name in names:
            if name not in roles or not 0 <= layer < n_layers:
                raise InvalidInputError(
                    f"the circuit refines layer {layer} at role {name!r}, which the model and task lack",
                    "the circuit belongs to another run",
                )
            refined[layer, roles.index(name)] = True
    return refined
