"""What is trained and how: concrete numbers, nothing left open, and the schedules that follow from them."""

from dataclasses import dataclass
from typing import Final, Literal

from hagd.dictionaries.dictionary import DictionaryKind
from hagd_transcoder.domain.schedules import annealed, learning_rate

ELSEWHERE: Final = 0.1
"""Weight of positions where an MLP cannot reach a judged logit: no circuit contains them, the report does."""
ELSEWHERE_SHARE: Final = 8
"""One prompt in this many is looked at there."""
SCALE_PROMPTS: Final = 512
"""Prompts that set scales and rank neurons."""
CHECKPOINTS: Final = 10


@dataclass(frozen=True)
class TrainingPlan:
    """Concrete numbers for one training run; the config of the stage says what they mean."""

    kind: DictionaryKind
    layers: tuple[int, ...]
    n_features: int
    k_start: int
    k: int
    start: Literal["mlp", "random"]
    skip: bool
    steps: int
    batch: int
    learning_rate: float
    behaviour: float
    nested: float
    smallest_prefix: int | None
    """None: twice the directions in which the MLP's output varies, layer by layer."""
    balance: float
    rate: float
    auxiliary: float
    seed: int

    @property
    def is_local(self) -> bool:
        """Say whether every loss is the squared error of one layer, so that layers step by themselves."""
        return not (self.behaviour or self.nested or self.balance)

    def k_at(self, step: int) -> int:
        """Give k at a step."""
        return annealed(step, self.steps, self.k_start, self.k)

    def learning_rate_at(self, step: int) -> float:
        """Give the learning rate at a step."""
        return learning_rate(step, self.steps, self.learning_rate)
