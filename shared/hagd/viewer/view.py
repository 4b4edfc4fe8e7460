"""What the viewer shows of a run: results as the stages give them, with nothing computed here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hagd.graphs.circuit import Circuit
from hagd.graphs.hierarchy import Hierarchy


@dataclass(frozen=True)
class RunView:
    """A run, ready to be drawn. What was not measured is absent or None and is shown as such."""

    title: str
    circuit: Circuit
    roles: Sequence[str]
    """The role axis in reading order; roles that only the circuit knows are added at the end."""
    n_layers: int
    verification: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The `data` of `hagd verify --json`. Optional extras: `necessity_excess`, `samples` and `draws` of the random
    controls, and `{value, ci95}` in place of a bare number."""
    hierarchy: Hierarchy | None = None
    cards: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    """Node or leaf id -> `label`, `frequency` (share of prompts), `examples` (`tokens`, `activations`, `position`,
    `prediction`), `promoted` and `suppressed` (pairs of token and logit weight)."""
    modules: Mapping[str, int] = field(default_factory=dict[str, int])
    """Node or leaf id -> label of the module view."""
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Model digest, quantisation, BOS rule, seed, versions, `command`; nested mappings are flattened."""
