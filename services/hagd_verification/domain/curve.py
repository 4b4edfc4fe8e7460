"""Preservation and faithfulness along the nested family, and their integrals over size (MIB's CPR and CMD).

Past the family's own nodes the circuit goes on by the graph's |score| up to the whole universe, so that the curve
always ends at the model with all errors corrupted.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hagd.graphs.attribution_graph import AttributionGraph
from hagd_verification.domain.frontier import Frontier
from hagd_verification.domain.measures import faithfulness
from hagd_verification.domain.nulls import ERROR
from hagd_verification.domain.panel import Panel, smaller
from hagd_verification.domain.statistics import ClusterBootstrap

FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_STEPS = (0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.0, 1.15, 1.4, 1.8)
"""Sizes beside the fractions, as shares of the circuit's own size."""


def extension(frontier: Frontier, graph: AttributionGraph) -> list[int]:
    """Order the entries outside the family by the graph's |score|, then by their place in the universe."""
    universe = frontier.universe
    score = np.full(len(universe), -1.0)
    ranked = graph.statistics.get("score_abs", np.zeros(graph.n_nodes))
    layers = {layer for layer, _ in universe.feature_counts}
    for node, value in zip(graph.nodes, ranked, strict=True):
        if node.kind != "logit" and (node.kind not in {"feature", "error", "skip"} or node.layer in layers):
            score[universe.entry(node)] = value
    inside = frontier.vector(len(frontier.circuit.nodes)) != 0
    outside = (universe.exists & (universe.kinds != ERROR) & ~inside).nonzero().flatten().numpy()
    return outside[np.argsort(-score[outside], kind="stable")].tolist()


def curve_sizes(frontier: Frontier, wanted: Sequence[int], total: int) -> list[int]:
    """List the sizes to score, each at most `total` nodes."""
    own = frontier.circuit.size
    sizes = {round(share * own) for share in _STEPS} | {round(share * total) for share in FRACTIONS}
    return sorted(size for size in sizes | set(wanted) | {own} if 1 <= size <= total)


def measure_curve(
    panel: Panel,
    bootstrap: ClusterBootstrap,
    frontier: Frontier,
    graph: AttributionGraph,
    wanted: Sequence[int],
    on_point: Callable[[float], None],
) -> dict[str, Any]:
    """Give the points of the curve and the integrals over it.

    The bootstrap is only asked for the ratio; faithfulness and preservation are those of the worse donor.
    """
    family = len(frontier.circuit.nodes)
    order = extension(frontier, graph)
    total = family + len(order)
    sizes = curve_sizes(frontier, wanted, total)
    points: list[dict[str, Any]] = []
    for number, size in enumerate(sizes):
        worst = smaller(panel.headline(_circuit(frontier, order, size)))
        found = faithfulness(panel, bootstrap, worst)
        hidden = sum(_hidden(frontier, entry) for entry in order[: max(0, size - family)])
        points.append(
            {
                "nodes": size,
                "leaves": frontier.leaves(min(size, family)) + hidden,
                "behavioural_preservation": worst.preserved,
                "faithfulness": None if found is None else found[0],
            }
        )
        on_point((number + 1) / len(sizes))
    return {"points": points, "universe_nodes": total, "n": len(panel), **areas(points, total)}


def _circuit(frontier: Frontier, order: Sequence[int], size: int) -> Float[Tensor, " node"]:
    family = len(frontier.circuit.nodes)
    circuit = frontier.vector(min(size, family)).clone()
    circuit[torch.tensor(order[: max(0, size - family)], dtype=torch.int64)] = 1.0
    return circuit


def _hidden(frontier: Frontier, entry: int) -> int:
    """Give the leaves of one entry: a whole block hides its neurons."""
    is_block = int(frontier.universe.kinds[entry]) == 2
    return frontier.subject.model.config.d_mlp if is_block else 1


def areas(points: Sequence[dict[str, Any]], total: int) -> dict[str, float | None]:
    """Give CPR (integral of F) and CMD (integral of |1 - F|) over the share of nodes in [0, 1], and on a log axis.

    The linear axis starts at the empty circuit, where F is 0. The log axis covers .001 to 1, scaled to length 1.
    """
    known = [(point["nodes"] / total, point["faithfulness"]) for point in points if point["faithfulness"] is not None]
    if not known:
        return {"cpr": None, "cmd": None, "cpr_log": None, "cmd_log": None}
    share, value = (np.array(column) for column in zip((0.0, 0.0), *known, strict=True))
    grid = np.logspace(-3, 0, 301)
    on_grid = np.interp(grid, share, value)
    return {
        "cpr": float(np.trapezoid(value, share)),
        "cmd": float(np.trapezoid(np.abs(1 - value), share)),
        "cpr_log": float(np.trapezoid(on_grid, np.linspace(0, 1, 301))),
        "cmd_log": float(np.trapezoid(np.abs(1 - on_grid), np.linspace(0, 1, 301))),
    }
