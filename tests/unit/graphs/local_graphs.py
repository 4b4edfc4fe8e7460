"""Random graphs of a prompt with a given share of edges, and the published definitions on square matrices."""

import numpy as np
import torch
from torch import Tensor

from hagd.graphs.local_graph import GraphTarget, LocalGraph
from hagd.graphs.neuronpedia import with_sums


def random_graph(
    seed: int = 0, n_layers: int = 3, n_pos: int = 4, per_layer: int = 9, density: float = 0.6, n_heads: int = 0
) -> LocalGraph:
    generator = np.random.default_rng(seed)
    places = [
        (layer, int(pos), int(name))
        for layer in range(n_layers)
        for pos, name in sorted({(generator.integers(n_pos), generator.integers(50)) for _ in range(per_layer)})
    ]
    features = np.array(places, dtype=np.int64).reshape(-1, 3)
    weights = generator.dirichlet(np.ones(4))[:3]
    targets = tuple(GraphTarget(f" word{i}", float(weight), i + 7) for i, weight in enumerate(weights))
    n_features = len(features)
    # The MLP of a layer writes at depth 2 l + 2, and reads behind its heads, which write at depth 2 l + 1.
    columns = [(2 * layer + 2, pos) for layer, pos, _ in places]
    columns += [(2 * layer + 2, pos) for layer in range(n_layers) for pos in range(n_pos)]
    columns += [(0, pos) for pos in range(n_pos)]
    heads = [(layer, head, pos) for layer in range(n_layers) for head in range(n_heads) for pos in range(n_pos)]
    columns += [(2 * layer + 1, pos) for layer, _, pos in heads]
    readers = [*columns[:n_features], *columns[len(columns) - len(heads) :]]
    readers += [(2 * n_layers + 2, n_pos - 1) for _ in targets]
    possible = np.array([[a[0] < b[0] and a[1] <= b[1] for a in columns] for b in readers])
    rows = generator.standard_normal((len(readers), len(columns))) * (generator.random(possible.shape) < density)
    return with_sums(
        prompt="some words",
        tokens=np.arange(n_pos) + 3,
        token_texts=tuple(f"t{pos}" for pos in range(n_pos)),
        n_layers=n_layers,
        features=features,
        activations=generator.random(n_features).astype(np.float32),
        targets=targets,
        rows=(rows * possible).astype(np.float32),
        heads=np.array(heads, dtype=np.int64).reshape(-1, 3),
    )


def normalised(square: Tensor) -> Tensor:
    return square.abs() / square.abs().sum(1, keepdim=True).clamp_min(1e-10)


def influence_by_inverse(square: Tensor, weights: Tensor) -> Tensor:
    """Give all paths at once: weights (I - A)^-1 - weights."""
    shares = normalised(square.double())
    eye = torch.eye(len(shares), dtype=torch.float64)
    return weights.double() @ (torch.linalg.inv(eye - shares) - eye)


def pruned_by_definition(graph: LocalGraph, node_share: float, edge_share: float) -> tuple[Tensor, Tensor]:
    """Give the masks of nodes and edges, straight from the published rule on square matrices."""
    square = torch.from_numpy(graph.adjacency()).double()
    n, n_targets, n_features = len(square), len(graph.targets), graph.n_features
    weights = torch.zeros(n, dtype=torch.float64)
    weights[n - n_targets :] = torch.from_numpy(graph.weights).double()
    tokens = slice(n_features + graph.n_errors, n_features + graph.n_errors + graph.n_pos)
    rowed = torch.from_numpy(graph.rows_of_nodes())[:-n_targets]

    def keep_ends(nodes: Tensor) -> None:
        nodes[tokens] = True
        nodes[n - n_targets :] = True

    def threshold(values: Tensor, share: float) -> Tensor:
        ordered = values.sort(descending=True).values
        if share == 1:
            return ordered[-1]
        held = ordered.cumsum(0) / ordered.sum()
        return ordered[min(int((held < share).sum()), len(held) - 1)]

    influence = influence_by_inverse(square, weights)
    nodes = influence >= threshold(influence, node_share) - 1e-12
    keep_ends(nodes)
    kept = square * nodes[:, None] * nodes
    scores = normalised(kept) * (influence_by_inverse(kept, weights) + weights)[:, None]
    edges = (scores >= threshold(scores.flatten(), edge_share) - 1e-12) & (scores > 0)
    while True:
        before = nodes.clone()
        nodes &= edges.any(0)
        nodes[rowed] &= edges[rowed].any(1)
        keep_ends(nodes)
        edges &= nodes[:, None] & nodes
        if torch.equal(before, nodes):
            return nodes, edges
