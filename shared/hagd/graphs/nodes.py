"""The names of nodes: what kind of thing, in which layer, at which role, which one."""

import re
from dataclasses import dataclass
from typing import Literal

from hagd.errors import InvalidInputError

NodeKind = Literal["token", "head", "feature", "error", "skip", "mlp", "logit"]
NODE_KINDS: tuple[NodeKind, ...] = ("token", "head", "feature", "error", "skip", "mlp", "logit")
_ID = re.compile(r"^(token|head|feature|error|skip|mlp|logit)(?:\.(\d+))?(?:\.(\d+))?@(.+)$")


@dataclass(frozen=True, order=True)
class Node:
    """A leaf of the universe. Text form: `token@a`, `head.0.3@eq`, `feature.2.17@eq`, `mlp.5@eq`, `logit@eq`.

    `mlp` is a whole block; `error` and `skip` belong to a refined block. `logit` is the task's metric.
    """

    kind: NodeKind
    layer: int
    """-1 for tokens; the number of layers for the logit."""
    role: str
    index: int = 0
    """Head or feature number; 0 for the other kinds."""

    def __str__(self) -> str:
        match self.kind:
            case "token" | "logit":
                return f"{self.kind}@{self.role}"
            case "head" | "feature":
                return f"{self.kind}.{self.layer}.{self.index}@{self.role}"
            case _:
                return f"{self.kind}.{self.layer}@{self.role}"

    @staticmethod
    def parse(text: str, n_layers: int) -> "Node":
        """Read the text form back.

        Raises:
            InvalidInputError: the text is not a node's name.
        """
        found = _ID.match(text)
        if found is None:
            raise InvalidInputError(f"{text!r} is not a node name", "write it like 'head.0.3@eq' or 'token@a'")
        kind, layer, index, role = found.groups()
        if kind == "token":
            return Node("token", -1, role)
        if kind == "logit":
            return Node("logit", n_layers, role)
        return Node(kind, int(layer), role, int(index or 0))  # type: ignore[arg-type]
