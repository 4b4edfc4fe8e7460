"""The numbers of a circuit: preservation with chance, faithfulness, KL, and what features and errors owe it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hagd.interventions.evaluation import HEADLINE, Ablation, Setting
from hagd_verification.domain.frontier import Frontier
from hagd_verification.domain.nulls import FEATURE
from hagd_verification.domain.panel import Panel, Scores, smaller
from hagd_verification.domain.statistics import (
    ClusterBootstrap,
    Interval,
    equivalence_p,
    interval_of,
    normalise,
    percentiles,
    ratio,
)

Estimate = tuple[float, Float[np.ndarray, " draw"]]
"""A value and the same value in every bootstrap resample."""


@dataclass(frozen=True)
class Headline:
    """The smaller preservation of the counterfactual and the unpaired setting, and the numbers beside it."""

    scores: tuple[Scores, ...]
    preserved: Interval
    chance: float
    faithfulness: Interval | None
    kl_nats: Interval
    equivalence_p: float | None
    """TOST on F with margin .1; the larger of both settings."""

    @property
    def worst(self) -> Scores:
        return smaller(self.scores)


def faithfulness(panel: Panel, bootstrap: ClusterBootstrap, scores: Scores) -> Estimate | None:
    """Give F = (E m(M_C) - E m(M_0)) / (E m(M) - E m(M_0)), M_0 the empty circuit under the same setting."""
    empty = panel.empty(scores.setting).metric
    return ratio(bootstrap, scores.metric - empty, panel.metric - empty)


def measure_headline(panel: Panel, bootstrap: ClusterBootstrap, circuit: Float[Tensor, " node"]) -> Headline:
    """Score a circuit under the headline."""
    scores = tuple(panel.headline(circuit))
    worst = smaller(scores)
    ratios = [faithfulness(panel, bootstrap, entry) for entry in scores]
    tested = [equivalence_p(found[1]) for found in ratios if found is not None]
    kl = worst.kl_nats
    return Headline(
        scores=scores,
        preserved=bootstrap.smallest([entry.agreement for entry in scores]),
        chance=panel.empty(worst.setting).preserved,
        faithfulness=interval_of(ratios[scores.index(worst)]),
        kl_nats=Interval(float(kl.mean()), *percentiles(bootstrap.means(kl))),
        equivalence_p=max(tested) if len(tested) == len(scores) else None,
    )


def headline_to_json(headline: Headline, panel: Panel, seed: int) -> dict[str, Any]:
    """Give the `headline` of the contract, with what stands beside it."""
    preserved, found = headline.preserved, headline.faithfulness
    by_setting = {entry.setting.ablation: entry.preserved for entry in headline.scores}
    return {
        "behavioural_preservation": preserved.value,
        "chance": headline.chance,
        "normalised": normalise(preserved.value, headline.chance),
        "ci95": preserved.pair(),
        "faithfulness": None if found is None else found.value,
        "faithfulness_ci95": None if found is None else found.pair(),
        "kl_nats": headline.kl_nats.value,
        "kl_nats_ci95": headline.kl_nats.pair(),
        "setting": headline.worst.setting.ablation,
        "by_setting": by_setting,
        "n": len(panel),
        "groups": len(set(panel.groups)),
        "seed": seed,
    }


def side_settings(refined: bool) -> list[Setting]:
    """List the settings of the report, headline first. Without refined blocks there are no errors to treat."""
    ablations: tuple[Ablation, ...] = ("counterfactual", "unpaired", "mean", "zero")
    settings = [Setting(ablation) for ablation in ablations]
    settings += [Setting(ablation, errors="zero") for ablation in ablations[:3] if refined]
    for setting in HEADLINE:
        settings += [replace(setting, errors="live")] if refined else []
        settings += [
            replace(setting, attention="frozen"),
            replace(setting, heads_outside="live"),
            replace(setting, tokens_outside="clean"),
        ]
    return settings


def measure_settings(
    panel: Panel,
    bootstrap: ClusterBootstrap,
    circuit: Float[Tensor, " node"],
    refined: bool,
    on_setting: Callable[[float], None],
) -> list[dict[str, Any]]:
    """Score a circuit under every setting."""
    rows: list[dict[str, Any]] = []
    settings = side_settings(refined)
    for number, setting in enumerate(settings):
        scores = panel.score(circuit, setting)
        found = faithfulness(panel, bootstrap, scores)
        chance = panel.empty(setting).preserved
        rows.append(
            {
                "ablation": setting.ablation,
                "errors": setting.errors,
                "attention": setting.attention,
                "heads_outside": setting.heads_outside,
                "tokens_outside": setting.tokens_outside,
                "behavioural_preservation": scores.preserved,
                "chance": chance,
                "normalised": normalise(scores.preserved, chance),
                "faithfulness": None if found is None else found[0],
                "kl_nats": float(scores.kl_nats.mean()),
                "n": len(panel),
            }
        )
        on_setting((number + 1) / len(settings))
    return rows


def minimum_over(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Give the least preserved of {counterfactual, unpaired, mean} x {errors corrupted, zero} x {attention live}."""
    eligible = [
        row
        for row in rows
        if row["ablation"] != "zero"
        and row["errors"] in {"corrupted", "zero"}
        and row["attention"] == "live"
        and row["heads_outside"] == "corrupted"
        and row["tokens_outside"] == "corrupted"
    ]
    return min(eligible, key=lambda row: row["behavioural_preservation"])


@dataclass(frozen=True)
class Mediation:
    """What the circuit owes to its features, and to the errors that it does not contain."""

    feature_share: Interval | None
    """[F(C) - F(C with its features corrupted)] / F(C); None without features, or where F(C) vanishes."""
    error_credit: Interval | None
    """F(C with all errors) - F(C); 0 where nothing is refined."""


def measure_mediation(panel: Panel, bootstrap: ClusterBootstrap, frontier: Frontier, headline: Headline) -> Mediation:
    """Measure both under the headline's worse setting, each as the bootstrap of one ratio."""
    scores, circuit = headline.worst, frontier.vector()
    if not frontier.is_refined:
        return Mediation(None, Interval(0.0, 0.0, 0.0))
    empty = panel.empty(scores.setting).metric
    lost = gained = None
    if frontier.has_features:
        without = torch.where(frontier.universe.kinds == FEATURE, 0.0, circuit)
        rest = panel.score(without, scores.setting).metric
        lost = ratio(bootstrap, scores.metric - rest, scores.metric - empty)
    with_errors = panel.score(circuit, replace(scores.setting, errors="live")).metric
    gained = ratio(bootstrap, with_errors - scores.metric, panel.metric - empty)
    return Mediation(interval_of(lost), interval_of(gained))
