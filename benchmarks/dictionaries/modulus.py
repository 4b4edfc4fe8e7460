"""Addition modulo 31: what width, k and the start of a dictionary each do, on inputs that it has not seen.

Half of all pairs train the dictionary, by their sum's operands in either order together; the other half measures it.
"""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Final, Literal

import torch

from benchmarks.tables import Row
from hagd.dictionaries.metrics import fraction_unexplained
from hagd.interventions.activations import Subject, record
from hagd.models.architectures import convert
from hagd.models.language_model import LanguageModel
from hagd.tasks.configs import ModularAdditionConfig
from hagd.tasks.splits import generator_for
from hagd.tasks.task import PromptBatch
from hagd.testing import RecordingContext
from hagd_transcoder.dictionaries import make_plan
from hagd_transcoder.domain.base_models import train_base_model
from hagd_transcoder.domain.exercises import Exercise, exercise_for
from hagd_transcoder.domain.training import train
from hagd_transcoder.handlers import TranscoderConfig

MODULUS: Final = 31
SEEDS: Final = range(5)


@dataclass(frozen=True)
class Choice:
    """One dictionary."""

    n_features: int
    k: int
    start: Literal["mlp", "random"]

    def __str__(self) -> str:
        return f"F={self.n_features}, k={self.k}, start {self.start}"

    @property
    def config(self) -> TranscoderConfig:
        """Give it as a config that looks at the squared error alone."""
        return TranscoderConfig(
            n_features=self.n_features, k=self.k, start=self.start, behaviour=0.0, nested=0.0, balance=0.0
        )


CHOICES: Final = tuple(Choice(*it) for it in product((256, 512), (16, 32), ("mlp", "random")))
HEADLINE: Final = Choice(256, 32, "mlp")


def measure_modulus() -> list[Row]:
    """Train every choice on five base models; give a row for each, and for what an extraction trains by default."""
    found: dict[str, list[float]] = {}
    asked = {str(it): it.config for it in CHOICES} | {"default of an extraction": TranscoderConfig()}
    for model, known, unseen in _subjects():
        for name, config in asked.items():
            found.setdefault(name, []).append(_unexplained(model, known, unseen, config))
    return [
        Row(
            f"modulus {MODULUS}: FVU on unseen pairs, {name}",
            statistics.mean(values),
            0.06 if name == str(HEADLINE) else None,
            at_most=True,
            note="seeds " + ", ".join(f"{value:.3f}" for value in values),
        )
        for name, values in found.items()
    ]


def _subjects() -> Iterator[tuple[LanguageModel, PromptBatch, PromptBatch]]:
    """Give base models with the half of all prompts that trains dictionaries, and the other one."""
    for seed in SEEDS:
        exercise = exercise_for("modular-addition", ModularAdditionConfig(modulus=MODULUS), seed)
        model = convert(train_base_model(exercise, seed, RecordingContext()).module.eval())
        pair = exercise.tokens[:, :2].sort(dim=1).values
        order = torch.randperm(MODULUS * MODULUS, generator=generator_for(seed, "halves"))
        rank = order[pair[:, 0] * MODULUS + pair[:, 1]]
        first = rank < rank.median()
        yield model, _batch(exercise, first), _batch(exercise, ~first)


def _batch(exercise: Exercise, chosen: torch.Tensor) -> PromptBatch:
    tokens, answers = exercise.tokens[chosen], exercise.answers[chosen]
    names = tuple(map(str, range(len(tokens))))
    return PromptBatch(exercise.layout, tokens, tokens, answers, answers[..., None], names)


def _unexplained(model: LanguageModel, known: PromptBatch, unseen: PromptBatch, config: TranscoderConfig) -> float:
    plan = make_plan(config, model, len(known), len(known.layout.roles))
    dictionary = train(model, [known], plan, RecordingContext())[0]
    at = known.layout.answer_positions
    run = record(Subject(model), unseen.clean, at, keep_mlp_in=True)
    x, out = (side[0][:, list(at)].flatten(0, 1) for side in (run.mlp_in, run.mlp_out))
    return fraction_unexplained(out, dictionary.decode(dictionary.encode(x), x))
