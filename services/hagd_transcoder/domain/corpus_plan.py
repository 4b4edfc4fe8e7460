"""What is trained on a corpus and how: concrete numbers, nothing left open."""

from dataclasses import dataclass
from typing import Final, Literal

from hagd_transcoder.domain.sparse.selection import Rule
from hagd_transcoder.domain.starting import Start

SCALE_TOKENS: Final = 8192
"""Tokens that set scales and rank neurons."""


Decoders = Literal["own", "untied", "tied"]
"""Who writes where: features to the output of their own layer; to that of every layer from it on, by a block for each
of these; or to all of these by the same block."""


@dataclass(frozen=True)
class CorpusPlan:
    """One training run; the config of the stage says what the numbers mean."""

    layers: tuple[int, ...]
    start: Start
    k_start: int
    k: int
    rule: Rule
    steps: int
    windows: int
    """Windows per step, which is one run of the model."""
    updates: int
    """Of the weights of every layer, per step."""
    finetune_steps: int
    """The last steps, in which all layers learn together."""
    finetune_windows: int
    """Windows per update in those."""
    finetune_weight: float
    learning_rate: float
    auxiliary: float
    dead_after: int
    """Tokens without firing after which a feature counts as dead."""
    balance: float
    half: bool
    checkpoints: int
    seed: int
    decoders: Decoders = "own"

    @property
    def alone_steps(self) -> int:
        """Steps in which every layer learns alone."""
        return self.steps - self.finetune_steps
