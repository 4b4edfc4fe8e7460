"""The spectral hierarchy of an attribution graph: one embedding, two trees.

The execution tree is what search and interventions walk (`execution_tree.py`), the module view is for readers
(`modules.py`). Every level is measured on the same affinity.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from hagd.errors import InvalidInputError
from hagd.graphs.acyclic import quotient_edges, require_acyclic
from hagd.graphs.attribution_graph import AttributionGraph
from hagd.graphs.hierarchy import Hierarchy, LevelReport
from hagd_coarsening.domain.execution_tree import build_tree
from hagd_coarsening.domain.modules import cyclic_weight, find_modules
from hagd_coarsening.domain.multilevel import Embedding, embed
from hagd_coarsening.domain.spectral import Affinity, affinity, degrees, functional_affinity

Clock = Callable[[], float]


@dataclass(frozen=True)
class HierarchyConfig:
    """What decides the hierarchy of a given graph."""

    branching: int = 4
    """Mean number of children: a level of n groups has ceil(n / branching) parents."""
    affinity: Affinity | Literal["functional"] = "log1p"
    """How |weights| become similarity. `functional` adds the likeness of output effects to `log1p`."""
    n_vectors: int = 32
    """Eigenvectors of the embedding."""
    seed: int = 0


def build_hierarchy(
    graph: AttributionGraph,
    config: HierarchyConfig,
    effects: Float[np.ndarray, "node effect"] | None = None,
    clock: Clock = time.perf_counter,
) -> Hierarchy:
    """Cluster the nodes of a graph into an execution tree and a module view.

    Args:
        graph: its nodes are level 0.
        config: see there.
        effects: signed effect of every node on some outputs, for the functional affinity; 0 where unknown.
        clock: seconds, for the reports.

    Raises:
        InvalidInputError: `functional` is asked for without effects.
    """
    started = clock()
    similarity = similarity_of(graph, config, effects)
    embedding = embed(similarity, config.n_vectors, config.seed)
    parents = build_tree(graph, _points(graph, similarity, embedding), config.branching)
    embedded = clock()
    megabytes = _megabytes(similarity, embedding)

    def report(labels: Int[np.ndarray, " node"], since: float) -> LevelReport:
        measured = measure(similarity, labels)
        return replace(measured, residual=embedding.residual, seconds=clock() - since, megabytes=megabytes)

    labels = np.arange(graph.n_nodes)
    levels = [replace(report(labels, embedded), seconds=clock() - started)]
    for parent in parents:
        since = clock()
        labels = parent[labels]
        source, target, _ = quotient_edges(graph.source, graph.target, graph.weight_abs, labels)
        require_acyclic(int(labels.max()) + 1, source, target)
        levels.append(report(labels, since))
    since = clock()
    modules = find_modules(similarity, embedding, config.seed)
    module_report = replace(report(modules, since), cyclic_weight=cyclic_weight(graph, modules))
    return Hierarchy(tuple(parents), tuple(levels), modules, module_report, config.branching)


def similarity_of(
    graph: AttributionGraph, config: HierarchyConfig, effects: Float[np.ndarray, "node effect"] | None
) -> sparse.csr_array:
    """Give the affinity that a config asks for. The functional part gets the same total weight as the structure."""
    if config.affinity != "functional":
        return affinity(graph, config.affinity)
    if effects is None:
        raise InvalidInputError("the functional affinity needs output effects", "choose the affinity 'log1p'")
    structure, function = affinity(graph, "log1p"), functional_affinity(effects)
    share = structure.sum() / function.sum() if function.nnz else 0.0
    return sparse.csr_array(structure + share * function)


def measure(similarity: sparse.csr_array, labels: Int[np.ndarray, " node"]) -> LevelReport:
    """Measure a clustering: the normalised cut is the sum over groups of cut / volume (groups of volume 0 give 0)."""
    n_groups = int(labels.max(initial=-1)) + 1
    edges = sparse.coo_array(similarity)
    start, end = edges.coords
    inside = labels[start] == labels[end]
    volume = np.bincount(labels, weights=degrees(similarity), minlength=n_groups)
    kept = np.bincount(labels[start[inside]], weights=edges.data[inside], minlength=n_groups)
    cut = np.where(volume > 0, (volume - kept) / np.where(volume > 0, volume, 1.0), 0.0)
    total = volume.sum()
    return LevelReport(
        n_groups=n_groups,
        normalised_cut=float(cut.sum()),
        intra_weight=float(kept.sum() / total) if total > 0 else 0.0,
        largest=int(np.bincount(labels).max(initial=0)),
        residual=0.0,
        seconds=0.0,
        megabytes=0.0,
        cyclic_weight=0.0,
    )


def _points(
    graph: AttributionGraph, similarity: sparse.csr_array, embedding: Embedding
) -> Float[np.ndarray, "node axis"]:
    """Place nodes by a diffusion map: random-walk eigenvectors times 1 - lambda, rows of unit length.

    A last, tiny axis holds the rank of the attribution score, so that nodes which the graph cannot tell apart (those
    without edges) are grouped with others of like importance.
    """
    degree = degrees(similarity)
    rows = embedding.vectors * np.maximum(1 - embedding.values, 0.0)
    rows = rows / np.sqrt(np.where(degree > 0, degree, 1.0))[:, None] * (degree > 0)[:, None]
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / np.where(length > 0, length, 1.0)
    rank = np.zeros(graph.n_nodes)
    if "score_abs" in graph.statistics:
        rank[np.argsort(graph.statistics["score_abs"], kind="stable")] = np.linspace(0, 1, graph.n_nodes)
    return np.column_stack([rows, 1e-3 * rank])


def _megabytes(similarity: sparse.csr_array, embedding: Embedding) -> float:
    """Give the size of the arrays that the level was computed from, in MB."""
    arrays = similarity.data, similarity.indices, similarity.indptr, embedding.vectors
    return sum(array.nbytes for array in arrays) / 1e6
