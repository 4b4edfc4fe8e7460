"""Where each source of a local graph has its column: features by (layer, position, id), errors, tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from hagd.attribution.frozen import FrozenPrompt


@dataclass(frozen=True)
class Columns:
    """Numbers of sources. Features of earlier layers have smaller numbers, so those below a layer are a prefix."""

    layers: Int[Tensor, " feature"]
    positions: Int[Tensor, " feature"]
    ids: Int[Tensor, " feature"]
    chosen: tuple[Int[Tensor, " _"], ...]
    """By layer: which of the layer's active features have a column."""
    starts: Int[np.ndarray, "layer pos"]
    """Column of the first feature of a (layer, position); one more row, and one more column in each, say where it ends.
    """
    n_layers: int
    n_pos: int

    @staticmethod
    def of(frozen: FrozenPrompt, keep: Sequence[Bool[Tensor, " _"]] | None = None) -> "Columns":
        """Number the sources of a prompt: all active features, or those that `keep` marks in each layer."""
        n_pos = frozen.n_pos
        found = [layer.features for layer in frozen.layers]
        chosen = [
            torch.arange(len(it), device=it.ids.device) if keep is None else keep[number].nonzero()[:, 0]
            for number, it in enumerate(found)
        ]
        counts = [
            np.bincount(it.positions[which].cpu().numpy(), minlength=n_pos)
            for it, which in zip(found, chosen, strict=True)
        ]
        ends = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
        starts = np.array([ends[n_pos * layer : n_pos * (layer + 1) + 1] for layer in range(len(found))])
        layers = [torch.full_like(which, number) for number, which in enumerate(chosen)]
        return Columns(
            torch.cat(layers),
            torch.cat([it.positions[which] for it, which in zip(found, chosen, strict=True)]),
            torch.cat([it.ids[which] for it, which in zip(found, chosen, strict=True)]),
            tuple(chosen),
            starts,
            len(found),
            n_pos,
        )

    @property
    def n_features(self) -> int:
        return len(self.ids)

    @cached_property
    def bounds(self) -> list[list[int]]:
        """Give `starts` as plain numbers, which loops read faster."""
        return self.starts.tolist()

    def of_layer(self, layer: int) -> slice:
        """Give the columns of the features of a layer."""
        return slice(self.bounds[layer][0], self.bounds[layer][-1])

    def error(self, layer: int, pos: int = 0) -> int:
        """Give the column of an error."""
        return self.n_features + layer * self.n_pos + pos

    def token(self, pos: int = 0) -> int:
        """Give the column of a token."""
        return self.n_features + self.n_layers * self.n_pos + pos

    def __len__(self) -> int:
        return self.n_features + (self.n_layers + 1) * self.n_pos
