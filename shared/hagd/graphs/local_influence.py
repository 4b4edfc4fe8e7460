"""Influence in the graph of one prompt, pruning by it, and the scores that say how much of it is explained.

The published definitions (circuit-tracer), computed on the rows alone: layers are visited from the last to the first,
so each row is read once in place of once per layer, and only edges between kept nodes are ever sorted.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hagd.errors import InvalidInputError
from hagd.graphs.local_graph import LocalGraph


@dataclass(frozen=True)
class Pruned:
    """What is left of a graph."""

    nodes: Bool[np.ndarray, " node"]
    """Columns, then targets."""
    edges: Bool[np.ndarray, "row column"]
    cumulative: Float[np.ndarray, " node"]
    """Of every node: the share of all influence that it and all stronger nodes have; targets, which have none, 1."""


@dataclass(frozen=True)
class GraphScores:
    """How much of what reaches the targets the graph explains; all between 0 and 1."""

    replacement: float
    """Share of the influence of tokens and errors that tokens have: paths that run through features alone."""
    completeness: float
    """Share of what goes into nodes, weighted by their influence, that does not come from errors."""
    errors_by_layer: tuple[float, ...]
    """Share of the influence of tokens and errors that the errors of each layer have."""


def column_influence(graph: LocalGraph) -> Float[np.ndarray, " column"]:
    """Give the influence of every source: its part, along all paths, in what flows into the targets."""
    return _influence(graph, torch.from_numpy(graph.rows), torch.from_numpy(graph.layer_starts)).numpy()


def score(graph: LocalGraph) -> GraphScores:
    """Give the published scores of a graph."""
    rows = torch.from_numpy(graph.rows)
    influence = column_influence(graph).astype(np.float64)
    n_features = graph.n_features
    errors = influence[n_features : n_features + graph.n_errors].reshape(graph.n_layers, graph.n_pos).sum(1)
    tokens = influence[n_features + graph.n_errors :].sum()
    together = errors.sum() + tokens
    absolute = rows.abs()
    from_errors = absolute[:, n_features : n_features + graph.n_errors].sum(1) / absolute.sum(1).clamp_min(_TINY)
    explained = np.ones(graph.n_nodes)
    explained[graph.rows_of_nodes()] = 1 - from_errors.double().numpy()
    reached = np.concatenate([influence, graph.weights])
    return GraphScores(
        float(tokens / together) if together else 1.0,
        float((explained * reached).sum() / reached.sum()),
        tuple((errors / together if together else errors).tolist()),
    )


def prune(graph: LocalGraph, node_share: float = 0.8, edge_share: float = 0.98) -> Pruned:
    """Keep the strongest nodes, then the strongest edges among them, that hold the given shares of all influence.

    Tokens and targets always stay; features and errors that lose all that they feed, and features that lose all that
    feeds them, go.

    Raises:
        InvalidInputError: a share is not between 0 and 1.
    """
    for share in (node_share, edge_share):
        if not 0 <= share <= 1:
            raise InvalidInputError(f"a share of influence lies between 0 and 1, not at {share}", "choose another")
    rows, n_features = torch.from_numpy(graph.rows), graph.n_features
    influence = _influence(graph, rows, torch.from_numpy(graph.layer_starts))
    # Targets have no influence: they are sorted, and counted, with the zeros.
    everything = torch.cat([influence, influence.new_zeros(len(graph.targets))])
    keep = everything >= _threshold(everything, node_share)
    keep[n_features + graph.n_errors :] = True
    columns = keep[: len(influence)].nonzero()[:, 0]
    kept_rows = torch.cat([keep[:n_features], keep.new_ones(len(graph.targets))]).nonzero()[:, 0]
    starts = torch.searchsorted(kept_rows, torch.from_numpy(graph.layer_starts))
    part = rows[kept_rows][:, columns]
    part_edges = _strongest_edges(graph, part, starts, edge_share)
    n_kept = int(starts[-1])
    n_inner = int((columns < n_features + graph.n_errors).sum())
    part_edges, fed = _drop_loose_ends(part_edges, n_kept, n_inner)
    nodes = keep.clone()
    nodes[columns[:n_inner]] = fed
    edges = torch.zeros(rows.shape, dtype=torch.bool)
    edges[kept_rows[:, None], columns] = part_edges
    return Pruned(nodes.numpy(), edges.numpy(), _cumulative(everything).numpy())


_TINY = 1e-10


def _influence(graph: LocalGraph, rows: Float[Tensor, "row column"], starts: Tensor) -> Float[Tensor, " column"]:
    """Give the influence of the columns of some rows; `starts` numbers the first row and column of each layer."""
    bounds: list[int] = starts.tolist()
    targets = rows[bounds[-1] :]
    influence = _flow(torch.from_numpy(graph.weights), targets)
    for layer in reversed(range(graph.n_layers)):
        here = slice(bounds[layer], bounds[layer + 1])
        if here.start < here.stop:
            influence += _flow(influence[here], rows[here])
    return influence


def _flow(reached: Float[Tensor, " row"], rows: Float[Tensor, "row column"]) -> Float[Tensor, " column"]:
    absolute = rows.abs()
    return (reached / absolute.sum(1).clamp_min(_TINY)) @ absolute


def _strongest_edges(
    graph: LocalGraph, part: Float[Tensor, "row column"], starts: Tensor, share: float
) -> Bool[Tensor, "row column"]:
    """Mark the edges that hold a share of the influence that runs over a part of the graph."""
    influence = _influence(graph, part, starts)
    reached = torch.cat([influence[: int(starts[-1])], torch.from_numpy(graph.weights)])
    absolute = part.abs()
    scores = absolute * (reached / absolute.sum(1).clamp_min(_TINY))[:, None]
    positive = scores[scores > 0]
    if len(positive) == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    return scores >= _threshold(positive, share)


def _drop_loose_ends(
    edges: Bool[Tensor, "row column"], n_features: int, n_inner: int
) -> tuple[Bool[Tensor, "row column"], Bool[Tensor, " inner"]]:
    """Take out features and errors that feed nothing, and features that nothing feeds, until none is left."""
    while True:
        keep = edges[:, :n_inner].any(0)
        keep[:n_features] &= edges[:n_features].any(1)
        loose = ~keep
        if not (edges[:, :n_inner][:, loose].any() or edges[:n_features][loose[:n_features]].any()):
            return edges, keep
        edges[:, :n_inner][:, loose] = False
        edges[:n_features][loose[:n_features]] = False


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
    received = rows.abs().sum(1) + torch.from_numpy(graph.left_out_abs)
    shares = rows.abs() / received.clamp_min(_TINY)[:, None]
    bounds: list[int] = graph.layer_starts.tolist()
    weights = torch.from_numpy(graph.weights)
    influence = weights @ shares[bounds[-1] :]
    for layer in reversed(range(graph.n_layers)):
        here = slice(bounds[layer], bounds[layer + 1])
        influence += influence[here] @ shares[here]
    reached = torch.cat([influence[: graph.n_features], weights])
    return float((reached * torch.from_numpy(graph.left_out_abs) / received.clamp_min(_TINY)).sum())
