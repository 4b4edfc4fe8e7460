"""Training as it goes, as means over stretches of steps: a long run leaves no more behind than a short one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from hagd.dictionaries.history import TrainingHistory

STRETCHES: Final = 256
"""At most so many points of a curve."""
_PREFIX: Final = "history."


class StepMeasures(NamedTuple):
    """What one step says of one layer, in the order of `hagd.dictionaries.history.MEASURES`."""

    fvu: float
    l0: float
    dead_share: float


@dataclass
class Recorder:
    """Sums over the steps of each stretch."""

    layers: tuple[int, ...]
    steps_per_stretch: int
    steps: Int[np.ndarray, " stretch"]
    tokens: Int[np.ndarray, " stretch"]
    """Read by its end."""
    seconds: Float[np.ndarray, " stretch"]
    sums: Float[np.ndarray, "stretch layer 2"]
    """Of FVU and L0."""
    dead: Float[np.ndarray, "stretch layer"]
    kl_nats: Float[np.ndarray, "stretch 2"]
    """Sums over the steps in which all dictionaries learnt together, and how many those were."""

    @staticmethod
    def start(layers: Sequence[int], steps: int) -> "Recorder":
        """Begin to record a run of so many steps."""
        each = -(-steps // STRETCHES)
        count = -(-steps // each)
        shape = (count, len(layers))
        zeros = np.zeros(count, dtype=np.int64)
        sums, dead, kl_nats = np.zeros((*shape, 2)), np.zeros(shape), np.zeros((count, 2))
        return Recorder(tuple(layers), each, zeros, zeros.copy(), np.zeros(count), sums, dead, kl_nats)

    def add(
        self,
        step: int,
        measures: Mapping[int, StepMeasures],
        tokens: int,
        seconds: float,
        kl_nats: float | None = None,
    ) -> None:
        """Take in a step: what it says of each layer, the tokens read so far, the time since training began, and the
        divergence with all MLPs replaced where dictionaries learn from that."""
        at = step // self.steps_per_stretch
        rows = np.array([measures[layer] for layer in self.layers])
        self.steps[at] += 1
        self.tokens[at], self.seconds[at] = tokens, seconds
        self.sums[at] += rows[:, :2]
        self.dead[at] = rows[:, 2]
        if kl_nats is not None:
            self.kl_nats[at] += kl_nats, 1

    def so_far(self) -> tuple[int, float]:
        """Give tokens read and seconds spent."""
        return int(self.tokens.max()), float(self.seconds.max())

    def state(self) -> dict[str, np.ndarray]:
        """Give what a checkpoint must hold, as arrays."""
        return {_PREFIX + name: getattr(self, name).copy() for name in _STATE}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Go on from what `state` gave."""
        for name in _STATE:
            setattr(self, name, arrays[_PREFIX + name].copy())

    def history(self) -> TrainingHistory:
        """Give the curves, once all steps are done."""
        means = self.sums / self.steps[:, None, None]
        seconds = np.repeat(self.seconds[:, None], len(self.layers), axis=1)
        total, count = self.kl_nats[self.kl_nats[:, 1] > 0].T
        return TrainingHistory(
            self.layers, self.tokens, seconds, means[..., 0], means[..., 1], self.dead, total / count
        )


_STATE: Final = ("steps", "tokens", "seconds", "sums", "dead", "kl_nats")
