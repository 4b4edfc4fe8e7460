"""Influence in the graph of one prompt, pruning by it, and the scores that say how much of it is explained.

The published definitions (circuit-tracer), computed on the rows alone: layers are visited from the last to the first,
so each row is read once in place of once per layer, and only edges between kept nodes are ever sorted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hagd.errors import InvalidInputError
from hagd.graphs.local_graph import LocalGraph
from hagd.graphs.scores import GraphScores


@dataclass(frozen=True)
class Pruned:
    """What is left of a graph."""

    nodes: Bool[np.ndarray, " node"]
    """Columns, then targets."""
    edges: Bool[np.ndarray, "row column"]
    cumulative: Float[np.ndarray, " node"]
    """Of every node: the share of all influence that it and all stronger nodes have; targets, which have none, 1."""


def column_influence(graph: LocalGraph) -> Float[np.ndarray, " column"]:
    """Give the influence of every source: its part, along all paths, in what flows into the targets."""
    return _influence(graph, torch.from_numpy(graph.rows), _Order.of(graph)).numpy()


def score(graph: LocalGraph) -> GraphScores:
    """Give the published scores of a graph."""
    rows = torch.from_numpy(graph.rows)
    influence = column_influence(graph).astype(np.float64)
    n_features = graph.n_features
    errors = influence[n_features : n_features + graph.n_errors].reshape(graph.n_layers, graph.n_pos).sum(1)
    tokens = influence[n_features + graph.n_errors :][: graph.n_pos].sum()
    together = errors.sum() + tokens
    errors_of = slice(n_features, n_features + graph.n_errors)
    from_errors = [it[:, errors_of].sum(1) / it.sum(1).clamp_min(_TINY) for it in map(torch.abs, _parts(rows))]
    explained = np.ones(graph.n_nodes)
    explained[graph.rows_of_nodes()] = 1 - torch.cat(from_errors).double().numpy()
    reached = np.concatenate([influence, graph.weights])
    return GraphScores(
        float(tokens / together) if together else 1.0,
        float((explained * reached).sum() / reached.sum()),
        tuple((errors / together if together else errors).tolist()),
    )


def prune(graph: LocalGraph, node_share: float = 0.8, edge_share: float = 0.98) -> Pruned:
    """Keep the strongest nodes, then the strongest edges among them, that hold the given shares of all influence.

    Tokens and targets always stay; features, heads and errors that lose all that they feed, and features and heads that
    lose all that feeds them, go.

    Raises:
        InvalidInputError: a share is not between 0 and 1.
    """
    for share in (node_share, edge_share):
        if not 0 <= share <= 1:
            raise InvalidInputError(f"a share of influence lies between 0 and 1, not at {share}", "choose another")
    rows, n_features, n_heads = torch.from_numpy(graph.rows), graph.n_features, graph.n_head_nodes
    order = _Order.of(graph)
    influence = _influence(graph, rows, order)
    # Targets have no influence: they are sorted, and counted, with the zeros.
    everything = torch.cat([influence, influence.new_zeros(len(graph.targets))])
    keep = everything >= _threshold(everything, node_share)
    keep[n_features + graph.n_errors : len(influence) - n_heads] = True
    keep[len(influence) :] = True
    columns = keep[: len(influence)].nonzero()[:, 0]
    # Heads and targets stand one behind the other among nodes, as they do among rows.
    kept_rows = torch.cat([keep[:n_features], keep[len(influence) - n_heads :]]).nonzero()[:, 0]
    part = rows[kept_rows][:, columns]
    kept_order = order.kept(kept_rows, len(columns))
    part_edges = _strongest_edges(graph, part, kept_order, edge_share)
    is_token = (columns >= n_features + graph.n_errors) & (columns < len(influence) - n_heads)
    part_edges, fed = _drop_loose_ends(part_edges, kept_order, is_token)
    nodes = keep.clone()
    nodes[columns] = fed
    edges = torch.zeros(rows.shape, dtype=torch.bool)
    edges[kept_rows[:, None], columns] = part_edges
    return Pruned(nodes.numpy(), edges.numpy(), _cumulative(everything).numpy())


_TINY = 1e-10
_CELLS_TOGETHER = 1 << 22


@dataclass(frozen=True)
class _Order:
    """Where the nodes with rows stand: features first among rows and columns, heads behind them and last."""

    features: list[int]
    """Number of the first feature of each layer, and how many there are."""
    heads: list[int]
    """The same of heads."""
    n_columns: int

    @staticmethod
    def of(graph: LocalGraph) -> "_Order":
        return _Order(graph.layer_starts.tolist(), graph.head_starts.tolist(), graph.rows.shape[1])

    def kept(self, rows: Int[Tensor, " kept"], n_columns: int) -> "_Order":
        """Give the order of some rows, ascending, and of as many columns."""
        starts = torch.tensor([*self.features, *(self.features[-1] + head for head in self.heads)])
        found: list[int] = torch.searchsorted(rows, starts).tolist()
        features, heads = found[: len(self.features)], found[len(self.features) :]
        return _Order(features, [head - features[-1] for head in heads], n_columns)

    @property
    def n_rows(self) -> int:
        """Give how many rows have columns, too; those of targets are behind them."""
        return self.features[-1] + self.heads[-1]

    @property
    def columns(self) -> Int[Tensor, " row"]:
        """Give the columns of these rows."""
        heads = torch.arange(self.n_columns - self.heads[-1], self.n_columns)
        return torch.cat([torch.arange(self.features[-1]), heads])

    def descending(self) -> Iterator[tuple[slice, slice]]:
        """Give (rows, columns) of all features, and of all heads, of one layer after the other, from the last down.

        Features may read the heads of their layer, so they come first.
        """
        for layer in reversed(range(len(self.features) - 1)):
            here = slice(self.features[layer], self.features[layer + 1])
            yield here, here
            first, last = self.heads[layer], self.heads[layer + 1]
            before = self.n_columns - self.heads[-1]
            yield (
                slice(self.features[-1] + first, self.features[-1] + last),
                slice(before + first, before + last),
            )


def _influence(graph: LocalGraph, rows: Float[Tensor, "row column"], order: _Order) -> Float[Tensor, " column"]:
    """Give the influence of the columns of some rows."""
    influence = _flow(torch.from_numpy(graph.weights), rows[order.n_rows :])
    for here, columns in order.descending():
        if here.start < here.stop:
            influence += _flow(influence[columns], rows[here])
    return influence


def _parts(rows: Float[Tensor, "row column"]) -> Sequence[Float[Tensor, "row column"]]:
    """Split rows, which may be as many as memory holds just once."""
    return rows.split(max(1, _CELLS_TOGETHER // max(1, rows.shape[1])))


def _flow(reached: Float[Tensor, " row"], rows: Float[Tensor, "row column"]) -> Float[Tensor, " column"]:
    absolute = rows.abs()
    return (reached / absolute.sum(1).clamp_min(_TINY)) @ absolute


def _strongest_edges(
    graph: LocalGraph, part: Float[Tensor, "row column"], order: _Order, share: float
) -> Bool[Tensor, "row column"]:
    """Mark the edges that hold a share of the influence that runs over a part of the graph."""
    influence = _influence(graph, part, order)
    reached = torch.cat([influence[order.columns], torch.from_numpy(graph.weights)])
    absolute = part.abs()
    scores = absolute * (reached / absolute.sum(1).clamp_min(_TINY))[:, None]
    positive = scores[scores > 0]
    if len(positive) == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    return scores >= _threshold(positive, share)


def _drop_loose_ends(
    edges: Bool[Tensor, "row column"], order: _Order, is_token: Bool[Tensor, " column"]
) -> tuple[Bool[Tensor, "row column"], Bool[Tensor, " column"]]:
    """Take out what feeds nothing, and features and heads that nothing feeds, until none is left; tokens stay."""
    n_rows, columns = order.n_rows, order.columns
    while True:
        keep = edges.any(0) | is_token
        keep[columns] &= edges[:n_rows].any(1)
        loose = ~keep
        if not (edges[:, loose].any() or edges[:n_rows][loose[columns]].any()):
            return edges, keep
        edges[:, loose] = False
        edges[:n_rows][loose[columns]] = False


def _threshold(values: Float[Tensor, " entry"], share: float) -> Float[Tensor, ""]:
    """Give the value such that it and all larger ones hold a share of the sum."""
    ordered = values.sort(descending=True).values
    if share >= 1:
        # Rounding must not take the sum for complete before its end.
        return ordered[-1]
    held = ordered.cumsum(0) / ordered.sum()
    return ordered[min(int(torch.searchsorted(held, share)), len(held) - 1)]


def _cumulative(values: Float[Tensor, " entry"]) -> Float[Tensor, " entry"]:
    ordered, order = values.sort(descending=True)
    out = torch.zeros_like(values)
    out[order] = ordered.cumsum(0) / ordered.sum()
    return out


def missed_influence(graph: LocalGraph) -> float:
    """Give the influence that arrives at active features without a node, and is lost there.

    No node's influence, counted over all active features, is larger than here by more than this. The weights of the
    targets are its scale: of targets whose weights sum to 1, all of the flow is 1 at each depth.
    """
    rows = torch.from_numpy(graph.rows)
    received = torch.cat([it.abs().sum(1) for it in _parts(rows)]) + torch.from_numpy(graph.left_out_abs)

    def shares(here: slice) -> Float[Tensor, "row column"]:
        return rows[here].abs() / received[here].clamp_min(_TINY)[:, None]

    order, weights = _Order.of(graph), torch.from_numpy(graph.weights)
    influence = weights @ shares(slice(order.n_rows, len(rows)))
    for here, columns in order.descending():
        influence += influence[columns] @ shares(here)
    reached = torch.cat([influence[order.columns], weights])
    return float((reached * torch.from_numpy(graph.left_out_abs) / received.clamp_min(_TINY)).sum())
