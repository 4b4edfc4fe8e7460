"""What a foreign file was found to hold, before it is folded into our input space."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hagd.dictionaries.cross_layer import Dictionaries
from hagd.dictionaries.dictionary import Dictionary, Ranking
from hagd.dictionaries.storage import check_shapes
from hagd.errors import InvalidInputError
from hagd.models.weights import check_finite, owned

InputSpace = Literal["mlp-input", "normalised", "hook-normalized", "residual"]
"""What an encoder reads.

mlp-input        the MLP's own input: the normalised residual, gain and bias of the norm included. Ours.
normalised       the same without gain and bias.
hook-normalized  what TransformerLens names `ln2.hook_normalized`. Of an RMSNorm it is `normalised`; of a LayerNorm,
                 `mlp-input` in releases before 3.0 and `normalised` since, and no file says by which it was made.
residual         the residual before the norm.
"""


@dataclass(frozen=True)
class Found:
    """Transcoders as a file describes them."""

    source_format: str
    """Name of the format they were read from."""
    content: Dictionaries
    """By layer, or one transcoder across layers; their input is of `space`."""
    space: InputSpace
    n_layers: int | None = None
    """Layers of the model, where the format holds all of them."""
    base_model: str | None = None
    """The model they were trained on, as the file names it."""
    revision: str | None = None
    """Commit, branch or tag of that model."""
    digest: str | None = None
    """sha256 of that model's weights, see `weight_digest`."""
    origin: str | None = None
    """Repository and commit that the files were pulled from, where a record beside them says so."""
    measured: Sequence[Mapping[str, Any]] = ()
    """What was measured about each layer where they were made, with the number of the `layer`."""


def make_transcoder(
    layer: int,
    *,
    w_enc: Float[Tensor, "d_model d_feature"],
    b_enc: Float[Tensor, " d_feature"],
    w_dec: Float[Tensor, "d_feature d_model"],
    b_dec: Float[Tensor, " d_model"],
    w_skip: Float[Tensor, "d_model d_model"] | None = None,
    threshold: Float[Tensor, " d_feature"] | None = None,
    k: int | None = None,
    ranked_by: Ranking = "contribution",
) -> Dictionary:
    """Build a ReLU, TopK or JumpReLU transcoder in float32 from tensors that nobody has looked at yet.

    Raises:
        InvalidInputError: shapes do not fit each other, a number is NaN or infinite, or `k` is no number of features.
    """
    given = {"w_enc": w_enc, "b_enc": b_enc, "w_dec": w_dec, "b_dec": b_dec, "w_skip": w_skip, "threshold": threshold}
    parts = {name: owned(value) for name, value in given.items() if value is not None}
    try:
        check_shapes(layer, parts)
    except ValueError as error:
        raise InvalidInputError(
            f"the tensors do not make a transcoder: {error}", "the file is damaged, or of another layout"
        ) from error
    check_finite({f"{name} of layer {layer}": value for name, value in parts.items()})
    if k is not None and not 0 < k <= len(parts["b_enc"]):
        raise InvalidInputError(
            f"layer {layer} keeps {k} of {len(parts['b_enc'])} features", "the config belongs to other weights"
        )
    return Dictionary(
        kind="transcoder",
        layer=layer,
        activation="relu",
        k=k,
        w_gate=None,
        b_gate=None,
        w_enc=parts["w_enc"],
        b_enc=parts["b_enc"],
        w_dec=parts["w_dec"],
        b_dec=parts["b_dec"],
        w_skip=parts.get("w_skip"),
        threshold=parts.get("threshold"),
        ranked_by=ranked_by,
    )


def positive(threshold: Float[Tensor, "*shape d_feature"], layer: int) -> Float[Tensor, "*shape d_feature"]:
    """Give thresholds that cut plain pre-activations, as `x * (x > threshold)` does.

    Raises:
        InvalidInputError: one is negative. It would let negative pre-activations through, which our ReLU does not.
    """
    if bool((threshold < 0).any()):
        raise InvalidInputError(
            f"layer {layer} has negative thresholds, under which features would be active with negative values",
            "such features have no counterpart here; were they meant as 0, clamp them in the file",
        )
    return threshold


def layers_of(read: Iterable[Dictionary], where: str) -> dict[int, Dictionary]:
    """Give the dictionaries by layer, in order.

    Raises:
        InvalidInputError: there are none, two are of one layer, or their widths differ.
    """
    found: dict[int, Dictionary] = {}
    for dictionary in read:
        if dictionary.layer in found:
            raise InvalidInputError(
                f"{where} holds layer {dictionary.layer} twice", "give the folder of one set of layers"
            )
        found[dictionary.layer] = dictionary
    if not found:
        raise InvalidInputError(f"{where} holds no transcoder", "give the folder that holds the layers")
    widths = sorted({dictionary.w_dec.shape[1] for dictionary in found.values()})
    if len(widths) > 1:
        raise InvalidInputError(
            f"the layers in {where} have different widths: {widths}", "keep one model's layers in one folder"
        )
    return dict(sorted(found.items()))


def checked_scale(scale: float, what: str) -> float:
    """Give a factor that other tools multiply activations by.

    Raises:
        InvalidInputError: it is not a positive number.
    """
    if not (torch.isfinite(torch.tensor(scale)) and scale > 0):
        raise InvalidInputError(f"{what} is {scale}, expected a positive number", "the file is damaged")
    return scale
