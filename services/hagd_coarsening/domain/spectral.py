"""What counts as similar: affinities between the nodes of a graph, and the normalised Laplacian on them."""

from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy import sparse

from hagd.graphs.attribution_graph import AttributionGraph
from hagd.graphs.influence import shares

Affinity = Literal["log1p", "raw", "row"]
AFFINITIES: tuple[Affinity, ...] = ("log1p", "raw", "row")


def affinity(graph: AttributionGraph, kind: Affinity = "log1p") -> sparse.csr_array:
    """Give `S = g(|W|) + g(|W|)^T`, symmetric and without a diagonal; |W| is the mean |weight|.

    `log1p` first divides by the median |weight|, because targets have different units of very different size;
    `raw` takes |W| itself; `row` takes each edge's share of what comes into its target.
    """
    if kind == "row":
        values = shares(graph.n_nodes, graph.target, graph.weight_abs.astype(np.float64))
    elif kind == "raw":
        values = graph.weight_abs.astype(np.float64)
    else:
        positive = graph.weight_abs[graph.weight_abs > 0]
        unit = float(np.median(positive)) if len(positive) else 1.0
        values = np.log1p(graph.weight_abs.astype(np.float64) / unit)
    shape = (graph.n_nodes, graph.n_nodes)
    one_way = sparse.csr_array((values, (graph.target, graph.source)), shape=shape)
    return _clean(sparse.csr_array(one_way + one_way.T))


def functional_affinity(
    effects: Float[np.ndarray, "node effect"], power: int = 4, neighbours: int = 16, block_rows: int = 2048
) -> sparse.csr_array:
    """Give the even power of the cosine between output-effect vectors, each node's strongest neighbours only.

    Even, because two nodes that push the same outputs in opposite directions do the same job: cos and -cos belong
    together. Nodes without effect have no neighbours.

    Raises:
        ValueError: `power` is odd.
    """
    if power % 2:
        raise ValueError(f"power must be even, not {power}")
    norms = np.linalg.norm(effects, axis=1, keepdims=True)
    unit = effects / np.where(norms > 0, norms, 1.0)
    n_nodes = len(unit)
    kept = min(neighbours, max(n_nodes - 1, 0))
    rows, columns, values = [], [], []
    for start in range(0, n_nodes, block_rows):
        likeness = (unit[start : start + block_rows] @ unit.T) ** power
        here = np.arange(len(likeness))
        likeness[here, here + start] = 0.0
        if kept == 0:
            continue
        near = np.argpartition(-likeness, kept - 1, axis=1)[:, :kept]
        rows.append(np.repeat(here + start, kept))
        columns.append(near.ravel())
        values.append(likeness[here[:, None], near].ravel())
    if not rows:
        return sparse.csr_array((n_nodes, n_nodes))
    found = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    one_way = sparse.csr_array(found, shape=(n_nodes, n_nodes))
    return _clean(sparse.csr_array(one_way.maximum(one_way.T)))


def count_nodes(similarity: sparse.csr_array) -> int:
    """Give the number of rows."""
    return len(similarity.indptr) - 1


def degrees(similarity: sparse.csr_array) -> Float[np.ndarray, " node"]:
    """Give the sum of every row."""
    return np.asarray(similarity.sum(1), dtype=np.float64).ravel()


def normalised_laplacian(similarity: sparse.csr_array) -> sparse.csr_array:
    """Give `I - D^-1/2 S D^-1/2`. A node without edges gets a 1, away from the low spectrum."""
    degree = degrees(similarity)
    inverse = sparse.diags_array(np.where(degree > 0, 1 / np.sqrt(np.where(degree > 0, degree, 1.0)), 0.0))
    return sparse.csr_array(sparse.eye_array(len(degree)) - inverse @ similarity @ inverse)


def _clean(matrix: sparse.csr_array) -> sparse.csr_array:
    """Drop the diagonal and stored zeros, and sort indices, so that equal graphs give equal arrays."""
    found = sparse.csr_array(matrix - sparse.diags_array(matrix.diagonal()))
    found.eliminate_zeros()
    found.sort_indices()
    return found
