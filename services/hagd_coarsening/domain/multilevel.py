"""Spectral embedding of a weighted graph: the low eigenvectors of its normalised Laplacian, found level by level.

Small graphs are solved exactly. A large one is halved along its heaviest edges until it is small, solved there,
and each solution is carried back up, smoothed by a Chebyshev filter and rotated onto the best vectors of its span
(Rayleigh-Ritz). The largest residual norm |L u - lambda u| is reported: for a symmetric matrix it bounds the
distance to the nearest true eigenvalue, so it certifies each result whatever the heuristics did.

Shift-invert, the usual default elsewhere, factorises a matrix that fills in; nothing here does.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import linalg, sparse

from hagd_coarsening.domain.spectral import count_nodes, degrees, normalised_laplacian

EXACT_NODES = 2000
FILTER_DEGREE = 8
_SWEEPS = 10
_FINAL_SWEEPS = 20
_GOOD_RESIDUAL = 3e-4
_LEAST_SHRINK = 0.8
_MATCHING_ROUNDS = 6


@dataclass(frozen=True)
class Embedding:
    """Eigenvectors of `I - D^-1/2 S D^-1/2`, smallest eigenvalue first."""

    values: Float[np.ndarray, " eigen"]
    vectors: Float[np.ndarray, "node eigen"]
    """Orthonormal columns."""
    residual: float
    """Largest |L u - lambda u| over the columns."""
    n_levels: int
    """Graphs solved, the given one included; 1 means exact."""


def embed(similarity: sparse.csr_array, n_vectors: int, seed: int = 0, exact_nodes: int | None = None) -> Embedding:
    """Give the `n_vectors` lowest eigenvectors of the normalised Laplacian of a symmetric non-negative matrix.

    Args:
        similarity: may have a diagonal (self-loops), which counts into degrees.
        n_vectors: cut to the number of nodes.
        seed: breaks ties of the matching.
        exact_nodes: largest graph that is solved exactly; by default max(2000, 8 * n_vectors).
    """
    n_nodes = count_nodes(similarity)
    n_vectors = min(n_vectors, n_nodes)
    guarded = min(n_nodes, n_vectors + max(4, n_vectors // 4))
    limit = max(EXACT_NODES, 8 * n_vectors) if exact_nodes is None else max(exact_nodes, guarded)
    chain, maps = _coarsen(similarity, limit, np.random.default_rng(seed))
    values, vectors = _solve_exactly(chain[-1], n_vectors if len(chain) == 1 else guarded)
    for level in range(len(maps) - 1, -1, -1):
        vectors = _prolong(chain[level], chain[level + 1], maps[level], vectors)
        sweeps = _SWEEPS if level else _FINAL_SWEEPS
        values, vectors = _refine(normalised_laplacian(chain[level]), vectors, float(values[-1]), n_vectors, sweeps)
    values, vectors = values[:n_vectors], _fix_signs(vectors[:, :n_vectors])
    return Embedding(values, vectors, _residual(normalised_laplacian(similarity), values, vectors), len(chain))


def _coarsen(
    similarity: sparse.csr_array, limit: int, generator: np.random.Generator
) -> tuple[list[sparse.csr_array], list[Int[np.ndarray, " _"]]]:
    """Halve the graph until it has at most `limit` nodes; give all graphs, and each node's group in the next."""
    chain, maps = [similarity], list[Int[np.ndarray, " _"]]()
    while count_nodes(chain[-1]) > limit:
        groups = match_heavy_edges(chain[-1], generator)
        maps.append(groups)
        chain.append(galerkin(chain[-1], groups))
    return chain, maps


def match_heavy_edges(similarity: sparse.csr_array, generator: np.random.Generator) -> Int[np.ndarray, " node"]:
    """Pair nodes along heavy edges; give each node's group, numbered by first member.

    In each round every free node points at the free neighbour it is most strongly tied to (weight over the root of
    the degrees), and pairs that point at each other are matched. A tiny random factor breaks ties. Where hubs stop
    the matching early, nodes that share their strongest neighbour are paired instead, so the graph always shrinks.
    """
    n_nodes = count_nodes(similarity)
    degree = degrees(similarity)
    upper = sparse.coo_array(sparse.triu(similarity, k=1))
    start, end = upper.coords
    tie = upper.data / np.sqrt(degree[start] * degree[end]) * (1 + 1e-6 * generator.random(len(upper.data)))
    favourite = _strongest_neighbour(n_nodes, start, end, tie)
    partner = np.arange(n_nodes)
    for _ in range(_MATCHING_ROUNDS):
        choice = _strongest_neighbour(n_nodes, start, end, tie)
        mutual = np.flatnonzero((choice >= 0) & (choice[choice] == np.arange(n_nodes)))
        partner[mutual] = choice[mutual]
        free = partner == np.arange(n_nodes)
        usable = free[start] & free[end]
        start, end, tie = start[usable], end[usable], tie[usable]
        if len(tie) == 0:
            break
    alone = np.flatnonzero(partner == np.arange(n_nodes))
    if n_nodes - (n_nodes - len(alone)) // 2 > _LEAST_SHRINK * n_nodes:
        alone = alone[np.argsort(favourite[alone], kind="stable")]
        first, second = alone[: len(alone) // 2 * 2 : 2], alone[1::2]
        partner[first], partner[second] = second, first
    return np.unique(np.minimum(np.arange(n_nodes), partner), return_inverse=True)[1]


def galerkin(similarity: sparse.csr_array, groups: Int[np.ndarray, " node"]) -> sparse.csr_array:
    """Give the quotient `P^T S P`, the weight inside a group kept as its self-loop, so that degrees add up."""
    n_nodes = len(groups)
    members = sparse.csr_array((np.ones(n_nodes), (np.arange(n_nodes), groups)))
    return sparse.csr_array(members.T @ similarity @ members)


def _strongest_neighbour(
    n_nodes: int, start: Int[np.ndarray, " edge"], end: Int[np.ndarray, " edge"], tie: Float[np.ndarray, " edge"]
) -> Int[np.ndarray, " node"]:
    """Give each node's neighbour along its heaviest edge, -1 without edges."""
    order = np.argsort(np.concatenate([tie, tie]), kind="stable")
    ends, others = np.concatenate([start, end])[order], np.concatenate([end, start])[order]
    strongest = np.full(n_nodes, -1)
    strongest[ends] = others
    return strongest


def _solve_exactly(
    similarity: sparse.csr_array, n_vectors: int
) -> tuple[Float[np.ndarray, " eigen"], Float[np.ndarray, "node eigen"]]:
    dense = normalised_laplacian(similarity).toarray()
    if n_vectors == 0:
        return np.zeros(0), np.zeros((len(dense), 0))
    return linalg.eigh(dense, subset_by_index=[0, n_vectors - 1])


def _prolong(
    fine: sparse.csr_array,
    coarse: sparse.csr_array,
    groups: Int[np.ndarray, " node"],
    vectors: Float[np.ndarray, "cluster eigen"],
) -> Float[np.ndarray, "node eigen"]:
    """Carry vectors up. Divided by the root of the degree they are near constant inside groups."""
    coarse_degree = degrees(coarse)
    scaled = vectors / np.sqrt(np.where(coarse_degree > 0, coarse_degree, 1.0))[:, None]
    return scaled[groups] * np.sqrt(degrees(fine))[:, None]


def _refine(
    laplacian: sparse.csr_array,
    vectors: Float[np.ndarray, "node eigen"],
    largest: float,
    wanted: int,
    sweeps: int,
) -> tuple[Float[np.ndarray, " eigen"], Float[np.ndarray, "node eigen"]]:
    """Turn approximate low eigenvectors into better ones; stops when the first `wanted` have a small residual."""
    values, vectors = _rayleigh_ritz(laplacian, vectors)
    for _ in range(sweeps):
        if _residual(laplacian, values[:wanted], vectors[:, :wanted]) < _GOOD_RESIDUAL:
            break
        edge = min(max(float(values[-1]), largest, 1e-3), 1.9)
        values, vectors = _rayleigh_ritz(laplacian, _chebyshev(laplacian, vectors, edge))
        largest = 0.0
    return values, vectors


def _chebyshev(
    laplacian: sparse.csr_array, vectors: Float[np.ndarray, "node eigen"], edge: float
) -> Float[np.ndarray, "node eigen"]:
    """Damp what has eigenvalues in [edge, 2], where the Chebyshev polynomial is small, and raise what lies below."""
    centre, half = (2 + edge) / 2, (2 - edge) / 2
    before, now = vectors, (laplacian @ vectors - centre * vectors) / half
    for _ in range(FILTER_DEGREE - 1):
        before, now = now, 2 * (laplacian @ now - centre * now) / half - before
    return now


def _rayleigh_ritz(
    laplacian: sparse.csr_array, vectors: Float[np.ndarray, "node eigen"]
) -> tuple[Float[np.ndarray, " eigen"], Float[np.ndarray, "node eigen"]]:
    """Give the best eigenpairs within a span."""
    basis, _ = np.linalg.qr(vectors / np.maximum(np.linalg.norm(vectors, axis=0), 1e-300))
    values, rotation = linalg.eigh(basis.T @ (laplacian @ basis))
    return values, basis @ rotation


def _residual(
    laplacian: sparse.csr_array, values: Float[np.ndarray, " eigen"], vectors: Float[np.ndarray, "node eigen"]
) -> float:
    return float(np.linalg.norm(laplacian @ vectors - vectors * values, axis=0).max(initial=0.0))


def _fix_signs(vectors: Float[np.ndarray, "node eigen"]) -> Float[np.ndarray, "node eigen"]:
    """Make the largest entry of every column positive."""
    if vectors.size == 0:
        return vectors
    largest = vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])]
    return vectors * np.where(largest < 0, -1.0, 1.0)
