"""How good a grouping is: what stays inside groups, what is cut, and how much of it runs in circles."""

from collections.abc import Sequence

import igraph
import numpy as np
from jaxtyping import Int

from hagd.graphs.acyclic import quotient_edges
from hagd.graphs.attribution_graph import AttributionGraph
from hagd.graphs.hierarchy import LevelReport
from leiden_stages.communities import Links


def measure_levels(graph: AttributionGraph, parents: Sequence[Int[np.ndarray, " _"]]) -> tuple[LevelReport, ...]:
    """Measure every level of a tree, that of the single nodes first. In a tree nothing runs in circles."""
    links = Links.of(graph)
    labels = np.arange(graph.n_nodes)
    levels = [_measure(links, labels, 0.0)]
    for parent in parents:
        labels = parent[labels]
        levels.append(_measure(links, labels, 0.0))
    return tuple(levels)


def measure_modules(graph: AttributionGraph, labels: Int[np.ndarray, " node"], cyclic: float) -> LevelReport:
    """Measure modules, of whose weight the share `cyclic` runs in circles."""
    return _measure(Links.of(graph), labels, cyclic)


def cyclic_weight(graph: AttributionGraph, labels: Int[np.ndarray, " node"]) -> float:
    """Give the share of |weight| between different groups that lies inside a cycle of groups."""
    source, target, weight = quotient_edges(graph.source, graph.target, graph.weight_abs, labels)
    if weight.sum() == 0:
        return 0.0
    arrows = igraph.Graph(int(labels.max()) + 1, np.column_stack([source, target]).tolist(), directed=True)
    component = np.array(arrows.connected_components(mode="strong").membership)
    return float(weight[component[source] == component[target]].sum() / weight.sum())


def _measure(links: Links, labels: Int[np.ndarray, " node"], cyclic: float) -> LevelReport:
    """The normalised cut is the sum over groups of cut / volume; groups of volume 0 give 0."""
    n_groups = int(labels.max(initial=-1)) + 1
    start, end = labels[links.source], labels[links.target]
    inside = start == end
    ends, weights = np.concatenate([start, end]), np.tile(links.weight, 2)
    volume = np.bincount(ends, weights=weights, minlength=n_groups)
    kept = 2 * np.bincount(start[inside], weights=links.weight[inside], minlength=n_groups)
    total = volume.sum()
    return LevelReport(
        n_groups=n_groups,
        normalised_cut=float(((volume - kept) / np.where(volume > 0, volume, 1.0)).sum()),
        intra_weight=float(kept.sum() / total) if total > 0 else 0.0,
        largest=int(np.bincount(labels).max(initial=0)),
        residual=0.0,
        seconds=0.0,
        megabytes=(links.source.nbytes + links.target.nbytes + links.weight.nbytes) / 1e6,
        cyclic_weight=cyclic,
    )
