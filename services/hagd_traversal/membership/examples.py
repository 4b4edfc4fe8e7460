"""What the network learns from: graphs with the causal effect of every node, turned into labels at every level.

A group's effect is the sum of its members' positive effects, and at each level the groups that together carry 95 % of
the whole are members. So one definition serves nodes and groups, and the share of positives falls out of the data.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hagd.graphs.attribution_graph import AttributionGraph
from hagd.graphs.hierarchy import Hierarchy
from hagd_traversal.membership.features import LevelGraph, level_graph
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
    gain = np.where(known, np.maximum(effect, 0.0), 0.0)
    levels: list[LevelGraph] = []
    labels: list[Tensor] = []
    judged: list[Tensor] = []
    for level in range(len(hierarchy.parents) + 1):
        members = hierarchy.members(level)
        n = int(members.max()) + 1
        levels.append(level_graph(graph, hierarchy, level))
        labels.append(torch.from_numpy(label_members(np.bincount(members, gain, minlength=n))).float())
        judged.append(torch.from_numpy(np.flatnonzero(np.bincount(members, known, minlength=n) > 0)))
    return Example(task, model, tuple(levels), tuple(labels), tuple(judged))


def planted_examples(seeds: range) -> list[Example]:
    """Make one example of each synthetic graph; errors and the logit are not judged."""
    examples: list[Example] = []
    for seed in seeds:
        planted = planted_graph(seed)
        candidate = np.array([node.kind not in ("logit", "error") for node in planted.graph.nodes])
        effect = np.where(candidate, planted.effect, np.nan)
        examples.append(make_example("planted", f"planted {seed}", planted.graph, planted.hierarchy, effect))
    return examples
