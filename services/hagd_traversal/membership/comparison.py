"""How well scores tell members from the rest, for the network and for what it must be better than.

The rivals are influence alone (the rank of the mean |attribution|, no training), and a logistic regression and
gradient boosting on the very features that the network sees of a node, without the graph. Needs scikit-learn, which
only development installs; nothing else imports this module.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score

from hagd_traversal.membership.examples import Example
from hagd_traversal.membership.features import NODE_FEATURES
from hagd_traversal.membership.network import MembershipNetwork

_INFLUENCE = NODE_FEATURES.index("score rank")
_IS_FEATURE = NODE_FEATURES.index("is feature")
_BINS = 10
_LEAST_MEMBERS = 3


@dataclass(frozen=True)
class Quality:
    """Means over examples, each counted once."""

    auroc: float
    average_precision: float
    n_examples: int


@dataclass(frozen=True)
class Judged:
    """The finest level of one example: its judged nodes, their labels and what scorers see of them."""

    nodes: Float[np.ndarray, "judged feature"]
    labels: Float[np.ndarray, " judged"]
    is_feature: Bool[np.ndarray, " judged"]

    @staticmethod
    def of(example: Example) -> "Judged":
        judged = example.judged[0]
        nodes = example.levels[0].nodes[judged].double().numpy()
        return Judged(nodes, example.labels[0][judged].double().numpy(), nodes[:, _IS_FEATURE] > 0)


Scores = Sequence[Float[np.ndarray, " judged"]]
"""Scores of the judged nodes of some examples, in their order."""


@torch.no_grad()
def network_scores(network: MembershipNetwork, examples: Sequence[Example]) -> Scores:
    """Score with the network; logits."""
    return [network(example.levels[0])[example.judged[0]].double().numpy() for example in examples]


def influence_scores(examples: Sequence[Example]) -> Scores:
    """Score by the rank of the mean |attribution| to the metric."""
    return [Judged.of(example).nodes[:, _INFLUENCE] for example in examples]


def trained_scores(training: Sequence[Example], examples: Sequence[Example], seed: int) -> Mapping[str, Scores]:
    """Score by models without a graph, trained on the nodes of `training`."""
    known = [Judged.of(example) for example in training]
    nodes, labels = np.concatenate([one.nodes for one in known]), np.concatenate([one.labels for one in known])
    weight = np.concatenate([np.full(len(one.labels), 1 / len(one.labels)) for one in known])
    models = {
        "logistic": LogisticRegression(max_iter=300),
        "boosting": HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=15, random_state=seed),
    }
    scores: dict[str, Scores] = {}
    for name, model in models.items():
        model.fit(nodes, labels, sample_weight=weight * len(weight) / weight.sum())
        scores[name] = [model.predict_proba(Judged.of(example).nodes)[:, 1] for example in examples]
    return scores


def quality(scores: Scores, examples: Sequence[Example], *, features_only: bool) -> Quality:
    """Give AUROC and average precision, over all judged nodes or over features among themselves.

    Examples with fewer than three members, or with nothing else, are passed over.
    """
    rows: list[tuple[float, float]] = []
    for score, example in zip(scores, examples, strict=True):
        judged = Judged.of(example)
        which = judged.is_feature if features_only else np.ones(len(judged.labels), dtype=bool)
        labels = judged.labels[which]
        if _LEAST_MEMBERS <= labels.sum() < len(labels):
            rows.append(
                (
                    float(roc_auc_score(labels, score[which])),
                    float(average_precision_score(labels, score[which])),
                )
            )
    auroc, precision = np.mean(rows, axis=0).tolist() if rows else (float("nan"), float("nan"))
    return Quality(auroc, precision, len(rows))


@torch.no_grad()
def calibration_errors(network: MembershipNetwork, examples: Sequence[Example]) -> list[float]:
    """Give the expected calibration error of every level, finest first: ten bins of equal width, examples pooled."""
    deepest = max(len(example.levels) for example in examples)
    errors: list[float] = []
    for level in range(deepest):
        chosen = [example for example in examples if level < len(example.levels)]
        predicted = [torch.sigmoid(network(e.levels[level]))[e.judged[level]].double().numpy() for e in chosen]
        labels = [e.labels[level][e.judged[level]].double().numpy() for e in chosen]
        errors.append(expected_calibration_error(np.concatenate(predicted), np.concatenate(labels)))
    return errors


def expected_calibration_error(predicted: Float[np.ndarray, " entry"], labels: Float[np.ndarray, " entry"]) -> float:
    """Give sum over bins of (share of entries) · |mean prediction - share of members|."""
    bins = np.minimum((predicted * _BINS).astype(int), _BINS - 1)
    gap = np.bincount(bins, predicted - labels, minlength=_BINS)
    return float(np.abs(gap).sum() / len(predicted))
