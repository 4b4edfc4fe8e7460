"""Measure transcoders on a model's own activations, in the input space they declare, before anybody relies on them.

A wrong input space leaves shapes as they are and ruins every number. It shows as a fraction of variance unexplained
above 1: worse than always giving the mean; or, where the wrong inputs are small and features silent, near 1 while
another space does far better. The first position is left out, since most models park attention there with
activations that dwarf all others, and most tools leave it out of training.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hagd.dictionaries.cross_layer import CrossLayerTranscoder
from hagd.dictionaries.formats.found import Found, InputSpace
from hagd.dictionaries.formats.spaces import meanings
from hagd.dictionaries.metrics import fraction_unexplained, mean_active
from hagd.errors import InvalidInputError
from hagd.models.language_model import LanguageModel
from hagd.models.trunk import Passage, run_trunk

CLEARLY = 2
"""How many times less another space must leave unexplained for the declared one to be taken for a mistake."""
_MEASURED: tuple[InputSpace, ...] = ("mlp-input", "normalised", "residual")


@dataclass(frozen=True)
class Quality:
    """How well one layer is reconstructed."""

    layer: int
    fvu: float
    """Fraction of variance unexplained; 1 is the mean."""
    l0: float
    """Active features per token."""


@dataclass(frozen=True)
class _Sides:
    """What one MLP reads, in every space, and writes."""

    inputs: Mapping[InputSpace, Float[Tensor, "token d_model"]]
    out: Float[Tensor, "token d_model"]


@dataclass(frozen=True)
class Probe:
    """What a measurement found."""

    space: InputSpace
    """The declared space; of the two that `hook-normalized` may mean, the one that fits better."""
    layers: tuple[Quality, ...]


@torch.no_grad()
def probe(found: Found, model: LanguageModel, tokens: Int[Tensor, "batch pos"]) -> Probe:
    """Measure every layer on `tokens`, in the space that the file declares.

    Raises:
        InvalidInputError: a layer explains less than the mean does, or another space, which is named, fits clearly
            better.
    """
    if tokens.shape[1] < 2 or tokens.numel() - len(tokens) < 2:
        raise InvalidInputError("a probe needs two tokens after the first", "give a longer text")
    sides = _record(model, tokens)
    measured = {space: _measure(found, sides, space) for space in _MEASURED}
    space = min(meanings(found.space, model.blocks[0].norm_mlp), key=lambda meant: _mean(measured[meant]))
    own = measured[space]
    fitting = [other for other in _MEASURED if _worst(measured[other]).fvu <= 1]
    if not fitting:
        raise InvalidInputError(
            f"read in the space {space} the transcoders explain less than the mean does, and no other space fits: "
            f"layer {_worst(own).layer} leaves {_worst(own).fvu:.3g} of the variance unexplained",
            "they belong to another model or to another order of layers, or are damaged",
        )
    best = min(fitting, key=lambda other: _mean(measured[other]))
    if space not in fitting or _mean(own) > CLEARLY * _mean(measured[best]):
        raise InvalidInputError(
            f"read in the space {space} the transcoders leave {_mean(own):.3g} of the variance unexplained, "
            f"in the space {best} {_mean(measured[best]):.3g}",
            f"the file is of the space {best}: say so with --space of `hagd transcoder convert`",
        )
    return Probe(space, own)


def _worst(measured: tuple[Quality, ...]) -> Quality:
    return max(measured, key=lambda quality: quality.fvu)


def _mean(measured: tuple[Quality, ...]) -> float:
    return sum(quality.fvu for quality in measured) / len(measured)


def _measure(found: Found, sides: list[_Sides], space: InputSpace) -> tuple[Quality, ...]:
    content, inputs = found.content, [side.inputs[space] for side in sides]
    measured: list[Quality] = []

    def note(layer: int, features: Tensor, rebuilt: Tensor) -> None:
        measured.append(Quality(layer, fraction_unexplained(sides[layer].out, rebuilt), mean_active(features)))

    if isinstance(content, CrossLayerTranscoder):
        features = [content.encode(layer, x) for layer, x in enumerate(inputs)]
        for layer, x in enumerate(inputs):
            note(layer, features[layer], content.decode(layer, features, x))
    else:
        # One layer at a time: the dense features of all would not fit in memory.
        for layer, it in content.items():
            active = it.encode(inputs[layer])
            note(layer, active, it.decode(active, inputs[layer]))
    return tuple(measured)


def _record(model: LanguageModel, tokens: Int[Tensor, "batch pos"]) -> list[_Sides]:
    """Run the model and keep both sides of every MLP at all positions but the first."""
    sides: list[_Sides] = []

    def visit(layer: int, passage: Passage) -> None:
        norm = model.blocks[layer].norm_mlp
        plain = replace(norm, gain=torch.ones_like(norm.gain), bias=None)
        read: dict[InputSpace, Tensor] = {
            "mlp-input": passage.x,
            "normalised": plain(passage.heard),
            "residual": passage.heard,
        }
        rows: dict[InputSpace, Tensor] = {space: value[:, 1:].flatten(0, 1) for space, value in read.items()}
        sides.append(_Sides(rows, passage.out[:, 1:].flatten(0, 1)))

    run_trunk(model, tokens, visit)
    return sides
