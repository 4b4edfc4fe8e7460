"""What some features fire on: the windows where each is strongest, found while tokens stream by.

Of every window only the best few of a feature are held, so memory does not grow with the text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hagd.corpora.corpus import Windows
from hagd.tasks.splits import generator_for

_BEFORE: Final = 12
_AFTER: Final = 8
"""Tokens that are shown around the strongest one."""


@dataclass(frozen=True)
class ExamplePlan:
    """How much is shown of each layer."""

    features: int
    windows: int
    """Of each feature."""


@dataclass
class TopWindows:
    """The windows on which some features of a layer fire most, strongest first; the earlier of equals. It lies on the
    CPU, wherever features fire."""

    features: Int[Tensor, " shown"]
    strengths: Float[Tensor, "shown top"]
    """The largest magnitude in each window; 0 where there is none."""
    numbers: Int[Tensor, "shown top"]
    values: Float[Tensor, "shown top pos"] = field(repr=False)

    @staticmethod
    def draw(fired: Bool[Tensor, " d_feature"], plan: ExamplePlan, n_pos: int, seed: int, layer: int) -> "TopWindows":
        """Draw features to watch among those that are known to fire."""
        alive = fired.nonzero()[:, 0].cpu()
        order = torch.randperm(len(alive), generator=generator_for(seed, "shown", layer))
        features = alive[order[: plan.features]].sort().values
        shape = (len(features), plan.windows)
        return TopWindows(
            features, torch.zeros(shape), torch.full(shape, -1, dtype=torch.int64), torch.zeros(*shape, n_pos)
        )

    def add(
        self,
        activations: Float[Tensor, "token d_feature"],
        counted: Bool[Tensor, "batch pos"],
        numbers: Int[Tensor, " batch"],
    ) -> None:
        """Look at a batch of windows: the activations of its counted tokens, and what the windows are called."""
        values = torch.zeros(*counted.shape, len(self.features))
        values[counted.cpu()] = activations[:, self.features].float().cpu()
        values = values.permute(2, 0, 1)
        strengths = torch.cat([self.strengths, values.abs().amax(2)], dim=1)
        best = strengths.sort(dim=1, descending=True, stable=True).indices[:, : self.strengths.shape[1]]
        padded = torch.zeros(len(self.features), len(numbers), self.values.shape[2])
        padded[..., : counted.shape[1]] = values
        held = torch.cat([self.values, padded], dim=1)
        self.values = held.gather(1, best[..., None].expand(-1, -1, held.shape[2]))
        self.numbers = torch.cat([self.numbers, numbers.expand(len(self.features), -1)], dim=1).gather(1, best)
        self.strengths = strengths.gather(1, best)

    def report(self, windows: Windows) -> list[dict[str, Any]]:
        """Give features, and of each the windows with the tokens around the strongest one, as JSON content."""
        return [
            {
                "feature": feature,
                "windows": [
                    _shown(windows, number, self.values[place, rank])
                    for rank, number in enumerate(self.numbers[place].tolist())
                    if self.strengths[place, rank] > 0
                ],
            }
            for place, feature in enumerate(self.features.tolist())
        ]


def _shown(windows: Windows, number: int, values: Float[Tensor, " pos"]) -> dict[str, Any]:
    tokens = windows.batch([number]).tokens[0]
    peak = int(values.abs().argmax())
    around = slice(max(0, peak - _BEFORE), min(len(tokens), peak + _AFTER + 1))
    ids: list[int] = tokens[around].tolist()
    return {
        "document": int(windows.documents()[number]),
        "strongest": peak - around.start,
        "tokens": ids,
        "texts": _texts(ids, windows.corpus.vocabulary),
        "values": [round(value, 6) for value in values[around].tolist()],
    }


def _texts(tokens: Sequence[int], vocabulary: Sequence[str]) -> list[str]:
    return [vocabulary[token] if token < len(vocabulary) else f"#{token}" for token in tokens]
