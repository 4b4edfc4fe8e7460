"""The attribution graph of one prompt: exact direct effects between what is active on it.

Sources, the columns: features by (layer, position, id), errors by (layer, position), tokens. Targets, the rows: the
same features, then what the graph ends at (logits, usually). Errors and tokens are sources only, so they have no
rows. The order is that of circuit-tracer, whose square matrix `LocalGraph.adjacency` gives.

Heads may be nodes, too, behind the tokens among the columns and behind the features among the rows. Then they are cut
points: every other edge is what goes without a head, and stays at its position.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Final

import numpy as np
from jaxtyping import Float, Int, Shaped

from hagd.artifacts.mapped import let_go

_ROWS_TOGETHER: Final = 64
_PER_ROW = ("scalars", "biases", "left_out", "left_out_abs")


@dataclass(frozen=True)
class GraphTarget:
    """Something that a graph ends at: a direction read behind the final norm at the last position."""

    name: str
    weight: float
    """Its part in influence: the probability of a logit. Those of all targets need not sum to 1."""
    token: int | None = None
    """The token of a logit; None for a difference or a vector."""


@dataclass(frozen=True)
class LocalGraph:
    """Edges into every row from every column. Units: of the target's scalar."""

    prompt: str
    """The text, or an empty one where only tokens were given."""
    tokens: Int[np.ndarray, " pos"]
    token_texts: tuple[str, ...]
    n_layers: int
    features: Int[np.ndarray, "feature 3"]
    """(layer, position, id) of each feature, ascending."""
    activations: Float[np.ndarray, " feature"]
    targets: tuple[GraphTarget, ...]
    rows: Float[np.ndarray, "row column"]
    """Gradient of the row's scalar where the column writes, times what it writes; patterns, denominators and gates
    frozen. A feature's scalar is its pre-activation, behind its frozen gate if it has one."""
    scalars: Float[np.ndarray, " row"]
    """What the scalar of each row was in the run: the sum of its edges, `biases` and `left_out`."""
    biases: Float[np.ndarray, " row"]
    """The part of the scalar that comes from biases and position embeddings, which are no nodes."""
    left_out: Float[np.ndarray, " row"]
    """The part of the scalar that comes from active features without a column; 0 where all have one."""
    left_out_abs: Float[np.ndarray, " row"]
    """The sum of the absolute values of those edges."""
    provenance: dict[str, str] = field(default_factory=dict[str, str])
    """What it was made with: the digest of the model, and how many first positions have no features."""
    heads: Int[np.ndarray, "head_node 3"] = field(default_factory=lambda: np.zeros((0, 3), dtype=np.int64))
    """(layer, head, position) of each head, ascending; none where edges run through heads. The scalar of a head is the
    length of what it writes, and an edge into it the part that the source has in that, along it."""
    directions: Float[np.ndarray, "target d_model"] | None = None
    """What each target reads behind the final norm; None where all are logits, or another tool made the graph."""

    def __post_init__(self) -> None:
        n_rows = len(self.features) + len(self.heads) + len(self.targets)
        n_columns = len(self.features) + self.n_errors + self.n_pos + len(self.heads)
        if self.rows.shape != (n_rows, n_columns):
            raise ValueError(f"rows are of shape {self.rows.shape}, expected {(n_rows, n_columns)}")
        for name, length in [("activations", len(self.features)), *((it, n_rows) for it in _PER_ROW)]:
            if getattr(self, name).shape != (length,):
                raise ValueError(f"{name} has shape {getattr(self, name).shape}, expected {(length,)}")
        if self.directions is not None and len(self.directions) != len(self.targets):
            raise ValueError(f"there are {len(self.directions)} directions of {len(self.targets)} targets")
        self._check_order()

    def _check_order(self) -> None:
        """Check what influence relies on: features ascend, and nothing flows from a layer into itself or a lower one.

        Raises:
            ValueError: it is not so.
        """
        bounds = np.array([self.n_layers, self.n_pos, 1 << 31])
        if not ((self.features >= 0) & (self.features < bounds)).all():
            raise ValueError("a feature is of a layer, position or number that does not exist")
        if not _ascends(self.features):
            raise ValueError("features are not in the order of layer, position and number")
        if not ((self.heads >= 0) & (self.heads < bounds[[0, 2, 1]])).all() or not _ascends(self.heads):
            raise ValueError("heads are not in the order of layer, head and position, or of none that exists")
        first_head = self.rows.shape[1] - self.n_head_nodes
        for layer, (features, heads) in enumerate(self.rows_by_layer()):
            later = [
                slice(features.start, self.n_features),
                slice(self.n_features + layer * self.n_pos, self.n_features + self.n_errors),
            ]
            above = first_head + heads.start - self.n_features
            into_heads = [*later, slice(above, None)]
            into_features = [*later, slice(above + heads.stop - heads.start, None)]
            if any(self._any(features, columns) for columns in into_features) or any(
                self._any(heads, columns) for columns in into_heads
            ):
                raise ValueError(f"something flows into layer {layer} from there or from a later one")

    def _any(self, rows: slice, columns: slice) -> bool:
        """Say whether there is an edge; rows that lie in a file are not kept in memory."""
        for first in range(rows.start, rows.stop, _ROWS_TOGETHER):
            found = self.rows[first : min(first + _ROWS_TOGETHER, rows.stop), columns].any()
            let_go(self.rows)
            if found:
                return True
        return False

    @property
    def n_pos(self) -> int:
        return len(self.tokens)

    @property
    def n_features(self) -> int:
        return len(self.features)

    @property
    def n_head_nodes(self) -> int:
        return len(self.heads)

    @property
    def n_errors(self) -> int:
        return self.n_layers * self.n_pos

    @property
    def n_nodes(self) -> int:
        return self.rows.shape[1] + len(self.targets)

    @property
    def weights(self) -> Float[np.ndarray, " target"]:
        """Give the weights of the targets."""
        return np.array([target.weight for target in self.targets], dtype=np.float32)

    @cached_property
    def layer_starts(self) -> Int[np.ndarray, " layer_and_end"]:
        """Give the number of the first feature of each layer; the last entry is the number of features."""
        return np.searchsorted(self.features[:, 0], np.arange(self.n_layers + 1))

    @cached_property
    def head_starts(self) -> Int[np.ndarray, " layer_and_end"]:
        """Give the number, among heads, of the first one of each layer; the last entry is the number of heads."""
        return np.searchsorted(self.heads[:, 0], np.arange(self.n_layers + 1))

    def rows_by_layer(self) -> Iterator[tuple[slice, slice]]:
        """Give the rows of the features and of the heads of each layer."""
        heads = (self.n_features + self.head_starts).tolist()
        for features, (first, last) in zip(pairwise(self.layer_starts.tolist()), pairwise(heads), strict=True):
            yield slice(*features), slice(first, last)

    def rows_of_nodes(self) -> Shaped[np.ndarray, " row"]:
        """Give the node that each row belongs to, among columns and then targets."""
        features, columns = np.arange(self.n_features), self.rows.shape[1]
        return np.concatenate([features, np.arange(columns - self.n_head_nodes, columns + len(self.targets))])

    def adjacency(self) -> Float[np.ndarray, "node node"]:
        """Give the square matrix over all nodes, targets last; of errors and tokens the rows are zero."""
        square = np.zeros((self.n_nodes, self.n_nodes), dtype=self.rows.dtype)
        square[self.rows_of_nodes(), : self.rows.shape[1]] = self.rows
        return square


def _ascends(places: Int[np.ndarray, "node 3"]) -> bool:
    order = np.lexsort(places.T[::-1])
    return (order == np.arange(len(order))).all() and len(np.unique(places, axis=0)) == len(order)
