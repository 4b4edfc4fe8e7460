"""Random layered graphs in which a planted sub-circuit carries the behaviour: unlimited examples of any depth.

Models that train in seconds are shallow, so depth has to come from here. The planted circuit is drawn backwards from
the logit; its edges are stronger than the rest by a random margin. Statistics follow from the edges by the linear
propagation that attribution uses, with two flaws that real attributions have: members whose gradient is saturated
look weak, and some bystanders look strong.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from hagd.graphs.attribution_graph import AttributionGraph
from hagd.graphs.hierarchy import Hierarchy, LevelReport
from hagd.graphs.influence import node_influence, shares
from hagd.graphs.nodes import NODE_KINDS, Node

_BRANCHING = 4
_SATURATED, _DECOYS = 0.08, 0.03
_MOST_NODES = 250


@dataclass(frozen=True)
class PlantedGraph:
    """A graph, a tree over it, and the effect of every node: positive for members of the planted circuit."""

    graph: AttributionGraph
    hierarchy: Hierarchy
    effect: Float[np.ndarray, " node"]


@dataclass(frozen=True)
class _Table:
    nodes: tuple[Node, ...]
    roles: tuple[str, ...]
    n_layers: int
    stage: Int[np.ndarray, " node"]
    role: Int[np.ndarray, " node"]


def planted_graph(seed: int) -> PlantedGraph:
    """Draw a graph with a planted circuit. The same seed gives the same graph."""
    generator = np.random.default_rng(seed)
    table = _draw_nodes(generator)
    source, target = _draw_edges(table, generator)
    member = _draw_members(table, source, target, generator)
    weight = _draw_weights(source, target, member, generator)
    graph = _with_statistics(table, source, target, weight, member, generator)
    flow = node_influence(graph)
    effect = np.where(member, flow + 1e-3 * flow[member].max(initial=1.0), 0.0)
    effect[-1] = 0.0
    return PlantedGraph(graph, random_hierarchy(graph, generator), effect)


def _draw_nodes(generator: np.random.Generator) -> _Table:
    n_layers = int(generator.integers(1, 7))
    roles = tuple(f"r{i}" for i in range(int(generator.integers(2, 8))))
    n_heads = int(generator.integers(2, 6))
    cells = n_layers * len(roles)
    most = max(2, _MOST_NODES // cells - n_heads - 1)
    features = int(generator.integers(2, max(3, min(80, most)))) if generator.random() < 0.8 else 0
    keyed: list[tuple[tuple[int, int, int, int], Node]] = []
    for number, role in enumerate(roles):
        keyed.append(((0, number, 0, 0), Node("token", -1, role)))
        for layer in range(n_layers):
            here = [Node("head", layer, role, index) for index in range(n_heads)]
            here += [Node("error" if features else "mlp", layer, role)]
            here += [Node("feature", layer, role, i) for i in range(int(generator.integers(0, 2 * features + 1)))]
            keyed += [((_stage(node), number, NODE_KINDS.index(node.kind), node.index), node) for node in here]
    keyed.append(((2 * n_layers + 1, len(roles) - 1, 0, 0), Node("logit", n_layers, roles[-1])))
    keyed.sort(key=lambda pair: pair[0])
    keys = np.array([key[:2] for key, _ in keyed])
    return _Table(tuple(node for _, node in keyed), roles, n_layers, keys[:, 0], keys[:, 1])


def _stage(node: Node) -> int:
    return 2 * node.layer + (1 if node.kind == "head" else 2)


def _draw_edges(
    table: _Table, generator: np.random.Generator
) -> tuple[Int[np.ndarray, " edge"], Int[np.ndarray, " edge"]]:
    """Let every node read from random earlier ones: heads from any role up to their own, others from their own."""
    degree = int(generator.integers(4, 12))
    sources: list[Int[np.ndarray, " edge"]] = []
    targets: list[Int[np.ndarray, " edge"]] = []
    for place, node in enumerate(table.nodes):
        if node.kind in ("token", "error"):
            continue
        reach = table.role <= table.role[place] if node.kind == "head" else table.role == table.role[place]
        candidates = np.flatnonzero(reach & (table.stage < table.stage[place]))
        count = len(candidates) if node.kind == "logit" else min(degree, len(candidates))
        sources.append(np.sort(generator.choice(candidates, count, replace=False)))
        targets.append(np.full(count, place))
    return np.concatenate(sources), np.concatenate(targets)


def _draw_members(
    table: _Table,
    source: Int[np.ndarray, " edge"],
    target: Int[np.ndarray, " edge"],
    generator: np.random.Generator,
) -> Bool[np.ndarray, " node"]:
    """Walk backwards from the logit: each member takes a few of its sources in."""
    member = np.zeros(len(table.nodes), dtype=bool)
    member[-1] = True
    error = np.array([node.kind == "error" for node in table.nodes])
    into_logit = float(generator.uniform(0.05, 0.5))
    into_other = float(generator.uniform(0.05, 0.4))
    for place in range(len(table.nodes) - 1, -1, -1):
        if member[place]:
            choices = source[(target == place) & ~error[source]]
            rate = into_logit if place == len(table.nodes) - 1 else into_other
            taken = generator.random(len(choices)) < rate
            if len(choices) and not taken.any():
                taken[generator.integers(len(choices))] = True
            member[choices[taken]] = True
    return member


def _draw_weights(
    source: Int[np.ndarray, " edge"],
    target: Int[np.ndarray, " edge"],
    member: Bool[np.ndarray, " node"],
    generator: np.random.Generator,
) -> Float[np.ndarray, " edge"]:
    """Draw heavy-tailed signed weights, weaker by a random margin where an end is outside the circuit."""
    size = generator.lognormal(0.0, generator.uniform(0.5, 1.2), len(source))
    margin = 10.0 ** -generator.uniform(0.7, 1.8)
    strong = member[source] & member[target]
    return np.where(strong, size, margin * size) * np.where(generator.random(len(source)) < 0.6, 1.0, -1.0)


def _with_statistics(
    table: _Table,
    source: Int[np.ndarray, " edge"],
    target: Int[np.ndarray, " edge"],
    weight: Float[np.ndarray, " edge"],
    member: Bool[np.ndarray, " node"],
    generator: np.random.Generator,
) -> AttributionGraph:
    """Propagate the metric backwards along the edges and blur it as real attributions are blurred."""
    n = len(table.nodes)
    strength = np.abs(weight) * generator.lognormal(0.0, 0.2, len(weight)) + np.abs(weight)
    share = shares(n, target, strength)
    score = np.zeros(n)
    score[-1] = 1.0
    order = np.argsort(-target, kind="stable")
    for edge in order.tolist():
        score[source[edge]] += score[target[edge]] * share[edge] * np.sign(weight[edge])
    graph = AttributionGraph(
        table.nodes, table.roles, table.n_layers, source, target, weight, strength, {}, int(generator.integers(32, 512))
    )
    influence = node_influence(graph)
    blur = generator.lognormal(0.0, generator.uniform(0.2, 0.8), n)
    score_abs = (0.5 * np.abs(score) + 0.5 * influence) * blur
    score_abs[member & (generator.random(n) < _SATURATED)] *= 0.05
    score_abs[~member & (generator.random(n) < _DECOYS)] *= 20.0
    dense = np.array([node.kind != "feature" for node in table.nodes])
    statistics = {
        "score": np.clip(score, -score_abs, score_abs),
        "score_abs": score_abs,
        "activation": generator.lognormal(0.0, 0.7, n) * np.where(member, 1.5, 1.0),
        "frequency": np.where(dense, 1.0, generator.beta(1.0, 2.0, n)),
        "influence": influence,
    }
    return AttributionGraph(
        table.nodes, table.roles, table.n_layers, source, target, weight, strength, statistics, graph.n_prompts
    )


def random_hierarchy(graph: AttributionGraph, generator: np.random.Generator) -> Hierarchy:
    """Group nodes of one (kind, layer, role) at random, a quarter as many groups per level, while any can merge."""
    blocks = [(node.kind, node.layer, node.role) for node in graph.nodes]
    parents: list[Int[np.ndarray, " cluster"]] = []
    while True:
        parent = np.zeros(len(blocks), dtype=np.int64)
        above: list[tuple[str, int, str]] = []
        for block in dict.fromkeys(blocks):
            here = np.array([i for i, other in enumerate(blocks) if other == block])
            count = -(-len(here) // _BRANCHING)
            parent[generator.permutation(here)] = len(above) + np.arange(len(here)) % count
            above += [block] * count
        if len(above) == len(blocks):
            break
        parents.append(parent)
        blocks = above
    levels = tuple(_unmeasured(size) for size in [graph.n_nodes, *(int(parent.max()) + 1 for parent in parents)])
    return Hierarchy(tuple(parents), levels, np.zeros(graph.n_nodes, dtype=np.int64), _unmeasured(1), _BRANCHING)


def _unmeasured(n_groups: int) -> LevelReport:
    return LevelReport(n_groups, 0.0, 0.0, 0, 0.0, 0.0, 0.0, 0.0)
