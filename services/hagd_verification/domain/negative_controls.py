"""Runs with a known verdict. If one comes out otherwise, the method is broken and nothing may be claimed.

- random weights: the model with every weight matrix shuffled must give `no claim`;
- foreign answers: answers and foils of another prompt, so that the metric is not the prompt's own: `no claim`;
- permuted scores: the circuit that scores permuted within kind and layer would name must be `refuted`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hagd.interventions.activations import Subject, record
from hagd.interventions.evaluation import choose, metric
from hagd.models.language_model import LanguageModel
from hagd.models.weights import from_tensors, named_tensors
from hagd.tasks.task import PromptBatch
from hagd_verification.domain.measures import measure_headline
from hagd_verification.domain.nulls import NullFamily
from hagd_verification.domain.panel import Panel
from hagd_verification.domain.random_circuits import against
from hagd_verification.domain.statistics import ClusterBootstrap, Interval, percentiles
from hagd_verification.domain.verdict import Claimability, ControlOutcome, Evidence, VerdictName, decide

SHUFFLED_PROMPTS = 64
"""Prompts on which the shuffled model is tried."""
STOP_AFTER = 10
BOOTSTRAP_DRAWS = 1000


@dataclass(frozen=True)
class NegativeControl:
    """What came out, with the numbers that it came from."""

    outcome: ControlOutcome
    numbers: dict[str, Any] = field(default_factory=dict[str, Any])

    def to_json(self) -> dict[str, Any]:
        outcome = self.outcome
        return {"name": outcome.name, "verdict": outcome.verdict, "expected": outcome.expected, **self.numbers}


@dataclass(frozen=True)
class Answered:
    """Prompts with the logits of a model on them and on their counterfactuals."""

    batch: PromptBatch
    clean: Float[Tensor, "batch answer vocab"]
    counterfactual: Float[Tensor, "batch answer vocab"]


def answered(panel: Panel) -> list[Answered]:
    """Give the model's own logits on the prompts of a panel."""
    return [
        Answered(prompts.batch, prompts.clean.logits[: len(prompts.batch)], prompts.counterfactual.logits)
        for prompts in panel.prepared.batches
    ]


def with_foreign_answers(panel: Panel) -> list[Answered]:
    """Give every prompt the answers and foils of its first unpaired donor, which has another answer."""
    found: list[Answered] = []
    for prompts, own in zip(panel.prepared.batches, answered(panel), strict=True):
        foreign = prompts.draws[0]
        batch = replace(own.batch, answers=own.batch.answers[foreign], foils=own.batch.foils[foreign])
        found.append(replace(own, batch=batch))
    return found


def claimability(several: Sequence[Answered], judged: str, minimum_accuracy: float, seed: int) -> Claimability:
    """Say whether a model shows the behaviour: accuracy, and its metric against the counterfactual's.

    The empty circuit under counterfactual donors is the counterfactual run, so no intervention is needed.
    """
    right = [(choose(a.clean, a.batch, judged) == a.batch.answers).all(-1).double().numpy() for a in several]
    gaps = [(metric(a.clean, a.batch) - metric(a.counterfactual, a.batch)).double().numpy() for a in several]
    groups = [group for a in several for group in a.batch.groups]
    gap = np.concatenate(gaps)
    bootstrap = ClusterBootstrap.of(groups, BOOTSTRAP_DRAWS, seed)
    found = Interval(float(gap.mean()), *percentiles(bootstrap.means(gap)))
    return Claimability(float(np.concatenate(right).mean()), minimum_accuracy, found)


def foreign_answers(panel: Panel, minimum_accuracy: float, seed: int) -> NegativeControl:
    """Judge the model by other prompts' answers."""
    found = claimability(with_foreign_answers(panel), panel.prepared.judged, minimum_accuracy, seed)
    return _by_claim("donors' answers mismatched", found)


def random_weights(panel: Panel, minimum_accuracy: float, seed: int) -> NegativeControl:
    """Judge the model with its weights shuffled."""
    twin = Subject(shuffled(panel.prepared.subject.model, seed))
    found: list[Answered] = []
    share = -(-SHUFFLED_PROMPTS // len(panel.prepared.batches))
    for prompts in panel.prepared.batches:
        batch = prompts.batch.take(torch.arange(min(share, len(prompts.batch))))
        at = batch.layout.answer_positions
        clean, other = record(twin, batch.clean, at), record(twin, batch.counterfactual, at)
        panel.bill.spent += 2 * len(batch)
        found.append(Answered(batch, clean.logits, other.logits))
    return _by_claim("random weights", claimability(found, panel.prepared.judged, minimum_accuracy, seed))


def _by_claim(name: str, found: Claimability) -> NegativeControl:
    verdict: VerdictName = "no claim" if found.reasons else "verified"
    numbers = {"task_accuracy": found.accuracy, "metric_gap": found.metric_gap.value}
    return NegativeControl(ControlOutcome(name, verdict, "no claim"), numbers)


def shuffled(model: LanguageModel, seed: int) -> LanguageModel:
    """Permute rows and columns of every matrix: the same weights, none of the function."""
    generator = torch.Generator().manual_seed(seed)

    def shuffle(weight: Tensor) -> Tensor:
        if weight.dim() < 2:
            return weight
        flat = weight.reshape(-1, weight.shape[-1])
        rows, columns = (torch.randperm(size, generator=generator) for size in flat.shape)
        return flat[rows][:, columns].reshape(weight.shape)

    return from_tensors(model.config, {name: shuffle(weight) for name, weight in named_tensors(model).items()})


def permuted_scores(
    panel: Panel,
    circuit: Float[Tensor, " node"],
    family: NullFamily,
    claim: Claimability,
    *,
    draws: int,
    threshold: float,
    alpha: float,
    seed: int,
) -> NegativeControl:
    """Put the permuted circuit through the same rule, against the matched null of its own."""
    bootstrap = ClusterBootstrap.of(panel.groups, BOOTSTRAP_DRAWS, seed)
    headline = measure_headline(panel, bootstrap, circuit)
    test = against(panel, circuit, family, draws, STOP_AFTER)
    evidence = Evidence(claim, headline.preserved, test.p, headline.equivalence_p, len(panel), None, None, 0, ())
    verdict = decide(evidence, threshold, alpha)
    numbers = {
        "behavioural_preservation": headline.preserved.value,
        "ci95": headline.preserved.pair(),
        "matched_mean": test.result.mean,
        "p": test.p,
        "draws": len(test.result.scores),
        "n": len(panel),
    }
    return NegativeControl(ControlOutcome("node scores permuted", verdict.name, "refuted"), numbers)
