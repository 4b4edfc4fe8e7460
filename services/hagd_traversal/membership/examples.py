"""What the network learns from: graphs with the causal effect of every node, turned into labels at every level.

Effects count as shares of their kind's total: one missing token breaks what a hundred features merely dent, and in
nats the features would not count at all. A group's effect is the sum of its members' positive effects, and at each
level the groups that together carry 95 % of the whole are members. So one definition serves nodes and groups, and the
share of positives falls out of the data.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hagd.graphs.attribution_graph import AttributionGraph
from hagd.graphs.hierarchy import Hierarchy
from hagd.graphs.nodes import NODE_KINDS
from hagd_traversal.membership.features import LevelGraph, level_graphs
from hagd_traversal.membership.synthetic import planted_graph

COVERED = 0.95
"""Share of the whole positive effect that the members of a level carry."""


@dataclass(frozen=True)
class Example:
    """One graph with labels, at every level of its hierarchy, finest first."""

    task: str
    """Family of the example, for leave-one-task-out: `modular-addition`, ..., `planted`."""
    model: str
    """The model or graph it comes from, for leave-one-model-out."""
    levels: tuple[LevelGraph, ...]
    labels: tuple[Float[Tensor, " cluster"], ...]
    judged: tuple[Int[Tensor, " judged"], ...]
    """Groups that hold at least one node whose effect is known; only they are trained on and scored."""


def label_members(effect: Float[np.ndarray, " cluster"]) -> Float[np.ndarray, " cluster"]:
    """Mark the fewest entries that carry 95 % of the positive effect: 1 for members, else 0."""
    gain = np.maximum(effect, 0.0)
    order = np.argsort(-gain, kind="stable")
    before = np.cumsum(gain[order]) - gain[order]
    members = np.zeros(len(effect))
    members[order[(before < COVERED * gain.sum()) & (gain[order] > 0)]] = 1.0
    return members


def make_example(
    task: str, model: str, graph: AttributionGraph, hierarchy: Hierarchy, effect: Float[np.ndarray, " node"]
) -> Example:
    """Describe and label every level; `effect` is NaN where a node is no candidate (the logit, errors)."""
    known = np.isfinite(effect)
    gain = share_of_kind(graph, np.where(known, np.maximum(effect, 0.0), 0.0))
    levels = tuple(level_graphs(graph, hierarchy))
    labels: list[Tensor] = []
    judged: list[Tensor] = []
    for level in range(len(levels)):
        members = hierarchy.members(level)
        n = int(members.max()) + 1
        labels.append(torch.from_numpy(label_members(np.bincount(members, gain, minlength=n))).float())
        judged.append(torch.from_numpy(np.flatnonzero(np.bincount(members, known, minlength=n) > 0)))
    return Example(task, model, levels, tuple(labels), tuple(judged))


def share_of_kind(graph: AttributionGraph, gain: Float[np.ndarray, " node"]) -> Float[np.ndarray, " node"]:
    """Divide every node's effect by the total of its kind."""
    kinds = np.array([NODE_KINDS.index(node.kind) for node in graph.nodes])
    total = np.bincount(kinds, gain, minlength=len(NODE_KINDS))
    return gain / np.where(total > 0, total, 1.0)[kinds]


def planted_examples(seeds: range) -> list[Example]:
    """Make one example of each synthetic graph; errors and the logit are not judged."""
    examples: list[Example] = []
    for seed in seeds:
        planted = planted_graph(seed)
        candidate = np.array([node.kind not in ("logit", "error") for node in planted.graph.nodes])
        effect = np.where(candidate, planted.effect, np.nan)
        examples.append(make_example("planted", f"planted {seed}", planted.graph, planted.hierarchy, effect))
    return examples
