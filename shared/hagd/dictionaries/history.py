"""How training went: a row of means for each stretch of steps, by layer. Loads without torch, for whoever draws it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from jaxtyping import Float, Int

from hagd.artifacts.document import Document
from hagd.errors import CorruptArtifactError

SCHEMA: Final = "hagd.training-history/v1"
MEASURES: Final = ("fvu", "l0", "dead_share")
_BY_LAYER: Final = ("seconds", *MEASURES)


@dataclass(frozen=True)
class TrainingHistory:
    """Stretches of training."""

    layers: tuple[int, ...]
    tokens: Int[np.ndarray, " stretch"]
    """Tokens read by the end of each."""
    seconds: Float[np.ndarray, "stretch layer"]
    """Spent by then, on this layer and those that it was trained with, whatever was done again after an interruption
    left out. Differs between runs that are otherwise equal to the byte."""
    fvu: Float[np.ndarray, "stretch layer"]
    """The loss: squared error of the batches at hand, in units of the variance at the start."""
    l0: Float[np.ndarray, "stretch layer"]
    """Active features per token."""
    dead_share: Float[np.ndarray, "stretch layer"]
    """Features that have not fired for long, at the end of the stretch."""
    kl_nats: Float[np.ndarray, " last"] = field(default_factory=lambda: np.zeros(0))
    """Divergence, with all MLPs replaced, of the batches of the last stretches: those in which dictionaries learnt
    from it. Empty where they never did."""

    def __post_init__(self) -> None:
        if self.tokens.ndim != 1:
            raise ValueError(f"tokens have {self.tokens.ndim} axes, expected 1")
        shape = (len(self.tokens), len(self.layers))
        for name in _BY_LAYER:
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} has shape {getattr(self, name).shape}, expected {shape}")
        if self.kl_nats.ndim != 1 or len(self.kl_nats) > len(self.tokens):
            raise ValueError(f"kl_nats has shape {self.kl_nats.shape}, expected at most {len(self.tokens)} stretches")

    def tokens_per_second(self) -> Float[np.ndarray, "stretch layer"]:
        """Give the speed in each stretch; 0 where the clock stood still."""
        tokens, seconds = np.diff(self.tokens, prepend=0), np.diff(self.seconds, axis=0, prepend=0)
        return np.divide(tokens[:, None], seconds, out=np.zeros_like(seconds), where=seconds > 0)


def join_histories(parts: Sequence[TrainingHistory]) -> TrainingHistory:
    """Put layers that were trained apart, on the same tokens, side by side in their order.

    Raises:
        CorruptArtifactError: they were not trained on the same tokens.
    """
    if any(not np.array_equal(part.tokens, parts[0].tokens) for part in parts):
        raise CorruptArtifactError("the shards were not trained on the same tokens", "run the stage again")
    layers = [layer for part in parts for layer in part.layers]
    order = np.argsort(layers)
    together = {name: np.concatenate([getattr(it, name) for it in parts], axis=1)[:, order] for name in _BY_LAYER}
    return TrainingHistory(tuple(sorted(layers)), parts[0].tokens, **together)


def history_to_document(history: TrainingHistory) -> Document:
    """Serialise a history."""
    tensors = {name: np.asarray(getattr(history, name)) for name in ("tokens", *_BY_LAYER)}
    if len(history.kl_nats):
        tensors["kl_nats"] = history.kl_nats
    return Document({"schema": SCHEMA, "layers": list(history.layers)}, tensors)


def history_from_document(document: Document) -> TrainingHistory:
    """Read what `history_to_document` wrote.

    Raises:
        CorruptArtifactError: it is of another kind, or its parts do not belong together.
    """
    content, tensors = document.content, document.tensors
    if content.get("schema") != SCHEMA:
        raise CorruptArtifactError(
            f"expected a document of schema {SCHEMA!r}, got {content.get('schema')!r}", "train the dictionaries again"
        )
    try:
        layers = tuple(int(layer) for layer in content["layers"])
        kl_nats = tensors.get("kl_nats", np.zeros(0))
        return TrainingHistory(
            layers, tensors["tokens"], **{name: tensors[name] for name in _BY_LAYER}, kl_nats=kl_nats
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptArtifactError(f"the history lacks a part: {error}", "train the dictionaries again") from error
