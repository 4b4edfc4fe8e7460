"""The module view: clusters that ignore the layering, as labels for readers.

k-means on the rows of the spectral embedding for several numbers of clusters; the one of highest modularity is kept
and refined by moving nodes while modularity rises. Modularity, not the normalised cut: refining that destroys
recovery of planted clusters.
"""

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse
from scipy.sparse import csgraph

from hagd.graphs.acyclic import quotient_edges
from hagd.graphs.attribution_graph import AttributionGraph
from hagd_coarsening.domain.multilevel import Embedding
from hagd_coarsening.domain.spectral import count_nodes, degrees

_KMEANS_ROUNDS = 30
_RESTARTS = 3
_MOVE_PASSES = 30


def modularity(similarity: sparse.csr_array, labels: Int[np.ndarray, " node"]) -> float:
    """Give Newman's modularity: the share of weight inside clusters beyond what the degrees alone would give."""
    total = similarity.sum()
    if total == 0:
        return 0.0
    edges = sparse.coo_array(similarity)
    start, end = edges.coords
    inside = edges.data[labels[start] == labels[end]].sum() / total
    volumes = np.bincount(labels, weights=degrees(similarity))
    return float(inside - ((volumes / total) ** 2).sum())


def find_modules(similarity: sparse.csr_array, embedding: Embedding, seed: int) -> Int[np.ndarray, " node"]:
    """Give each node's module, largest first; the number of modules is not given. Nodes without edges share one."""
    degree = degrees(similarity)
    tied = np.flatnonzero(degree > 0)
    labels = np.zeros(len(degree), dtype=np.int64)
    if len(tied):
        part = sparse.csr_array(similarity[tied][:, tied])
        labels[:] = -1
        labels[tied] = _best_modules(part, embedding.vectors[tied], seed)
    return _by_size(labels)


def cyclic_weight(graph: AttributionGraph, labels: Int[np.ndarray, " node"]) -> float:
    """Give the share of |weight| between different groups that lies inside a cycle of groups."""
    source, target, weight = quotient_edges(graph.source, graph.target, graph.weight_abs, labels)
    if weight.sum() == 0:
        return 0.0
    n_groups = int(labels.max()) + 1
    arrows = sparse.csr_array((weight, (source, target)), shape=(n_groups, n_groups))
    _, component = csgraph.connected_components(arrows, directed=True, connection="strong")
    return float(weight[component[source] == component[target]].sum() / weight.sum())


def _best_modules(
    similarity: sparse.csr_array, vectors: Float[np.ndarray, "node eigen"], seed: int
) -> Int[np.ndarray, " node"]:
    generator = np.random.default_rng(seed)
    candidates = sorted({k for k in (2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32) if k <= vectors.shape[1]})
    best, best_value = np.zeros(count_nodes(similarity), dtype=np.int64), 0.0
    for n_clusters in candidates:
        rows = vectors[:, :n_clusters]
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        labels = _kmeans(rows / np.where(length > 0, length, 1.0), n_clusters, generator)
        value = modularity(similarity, labels)
        if value > best_value:
            best, best_value = labels, value
    return _refine(similarity, best, generator)


def _kmeans(
    points: Float[np.ndarray, "node axis"], n_clusters: int, generator: np.random.Generator
) -> Int[np.ndarray, " node"]:
    best, best_cost = np.zeros(len(points), dtype=np.int64), np.inf
    for _ in range(_RESTARTS):
        centres = _spread_centres(points, n_clusters, generator)
        labels, distance = _nearest(points, centres)
        for _ in range(_KMEANS_ROUNDS):
            sizes = np.bincount(labels, minlength=n_clusters)
            members = sparse.csr_array(
                (np.ones(len(points)), (labels, np.arange(len(points)))), shape=(n_clusters, len(points))
            )
            centres = np.where(sizes[:, None] > 0, members @ points / np.maximum(sizes, 1)[:, None], centres)
            renewed, distance = _nearest(points, centres)
            if np.array_equal(renewed, labels):
                break
            labels = renewed
        if distance.sum() < best_cost - 1e-12:
            best, best_cost = labels, float(distance.sum())
    return best


def _spread_centres(
    points: Float[np.ndarray, "node axis"], n_clusters: int, generator: np.random.Generator
) -> Float[np.ndarray, "cluster axis"]:
    """Choose starting centres far from each other (k-means++)."""
    chosen = [points[generator.integers(len(points))]]
    distance = np.full(len(points), np.inf)
    for _ in range(n_clusters - 1):
        distance = np.minimum(distance, ((points - chosen[-1]) ** 2).sum(1))
        total = distance.sum()
        at = np.searchsorted(np.cumsum(distance), generator.random() * total) if total > 0 else 0
        chosen.append(points[min(int(at), len(points) - 1)])
    return np.stack(chosen)


def _nearest(
    points: Float[np.ndarray, "node axis"], centres: Float[np.ndarray, "cluster axis"]
) -> tuple[Int[np.ndarray, " node"], Float[np.ndarray, " node"]]:
    squared = (points**2).sum(1)[:, None] - 2 * points @ centres.T + (centres**2).sum(1)
    labels = squared.argmin(1)
    return labels, np.maximum(squared[np.arange(len(points)), labels], 0.0)


def _refine(
    similarity: sparse.csr_array, labels: Int[np.ndarray, " node"], generator: np.random.Generator
) -> Int[np.ndarray, " node"]:
    """Move nodes to the cluster that raises modularity most, half of them at a time, while the whole gains."""
    n_nodes = len(labels)
    degree = degrees(similarity)
    total = degree.sum()
    n_clusters = int(labels.max(initial=0)) + 1
    value = modularity(similarity, labels)
    failures = 0
    here = np.arange(n_nodes)
    for _ in range(_MOVE_PASSES):
        members = sparse.csr_array((np.ones(n_nodes), (here, labels)), shape=(n_nodes, n_clusters))
        toward = sparse.csr_array(similarity @ members).toarray()
        volumes = np.bincount(labels, weights=degree, minlength=n_clusters)
        gain = toward - degree[:, None] * volumes[None] / total
        gain[here, labels] += degree**2 / total
        wanted = gain.argmax(1)
        moving = (wanted != labels) & (generator.random(n_nodes) < 0.5)
        renewed = np.where(moving, wanted, labels)
        renewed_value = modularity(similarity, renewed)
        if renewed_value > value + 1e-12:
            labels, value, failures = renewed, renewed_value, 0
        else:
            failures += 1
        if failures == 3:
            break
    return labels


def _by_size(labels: Int[np.ndarray, " node"]) -> Int[np.ndarray, " node"]:
    """Number clusters by size, ties by first member."""
    _, first, inverse, sizes = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    order = np.lexsort((first, -sizes))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return rank[inverse]
