"""A cross-layer transcoder: features read at one layer and write to the MLP outputs of that layer and all later ones.

f_l = act(x_l W_enc_l + b_enc_l)         MLP_l(x_l) = sum over s <= l of f_s W_dec_{s,l} + b_dec_l [+ x_l W_skip_l]
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hagd.artifacts.document import Document
from hagd.dictionaries.dictionary import Dictionary, keep_top
from hagd.errors import CorruptArtifactError
from hagd.models.language_model import ACTIVATIONS

SCHEMA = "hagd.cross-layer-transcoder/v1"


@dataclass(frozen=True)
class CrossLayerTranscoder:
    """Encoders and decoders of all layers of a model, in the order of the layers."""

    activation: str
    """Name in `ACTIVATIONS`."""
    w_enc: tuple[Float[Tensor, "d_model d_feature"], ...]
    b_enc: tuple[Float[Tensor, " d_feature"], ...]
    w_dec: tuple[Float[Tensor, "_ d_feature d_model"], ...]
    """By source layer: `w_dec[s][t - s]` writes to layer t."""
    b_dec: tuple[Float[Tensor, " d_model"], ...]
    w_skip: tuple[Float[Tensor, "d_model d_model"], ...] | None = None
    threshold: tuple[Float[Tensor, " d_feature"], ...] | None = None
    """JumpReLU: an activation counts where its magnitude exceeds this, and is 0 elsewhere. Not together with `k`."""
    k: int | None = None
    """Features of a layer kept per token, those of largest |activation|; None keeps all."""

    def __post_init__(self) -> None:
        layers = len(self.w_enc)
        for name in ("b_enc", "w_dec", "b_dec", "w_skip", "threshold"):
            part = getattr(self, name)
            if part is not None and len(part) != layers:
                raise ValueError(f"there are {layers} encoders, but {name} has {len(part)} layers")
        fewest = min(map(len, self.b_enc), default=0)
        if self.k is not None and not 0 < self.k <= fewest:
            raise ValueError(f"it keeps {self.k} of {fewest} features")
        d_model = self.w_enc[0].shape[0] if layers else 0
        for layer, w_enc in enumerate(self.w_enc):
            d_feature = w_enc.shape[-1]
            expected = {
                "w_enc": (d_model, d_feature),
                "b_enc": (d_feature,),
                "w_dec": (layers - layer, d_feature, d_model),
                "b_dec": (d_model,),
                "w_skip": (d_model, d_model),
                "threshold": (d_feature,),
            }
            for name, shape in expected.items():
                part = getattr(self, name)
                if part is not None and tuple(part[layer].shape) != shape:
                    raise ValueError(f"{name} of layer {layer} has shape {tuple(part[layer].shape)}, expected {shape}")

    @property
    def n_layers(self) -> int:
        return len(self.w_enc)

    def encode(self, layer: int, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_feature"]:
        """Give the sparse activations of one layer's features."""
        dense = ACTIVATIONS[self.activation](x @ self.w_enc[layer] + self.b_enc[layer])
        if self.threshold is not None:
            dense = dense * (dense.abs() > self.threshold[layer])
        return dense if self.k is None else keep_top(dense, torch.ones_like(self.b_enc[layer]), self.k)

    def decode(
        self,
        layer: int,
        features: Sequence[Float[Tensor, "*batch _"]] | Mapping[int, Float[Tensor, "*batch _"]],
        x: Float[Tensor, "*batch d_model"],
    ) -> Float[Tensor, "*batch d_model"]:
        """Reconstruct one layer's MLP output.

        Args:
            features: activations by layer, of the layers 0 to `layer`; later ones are not looked at.
            x: input of that layer's MLP, which the skip path reads.
        """
        out = sum(
            (features[source] @ self.w_dec[source][layer - source] for source in range(layer + 1)), self.b_dec[layer]
        )
        return out if self.w_skip is None else out + x @ self.w_skip[layer]


Dictionaries = Mapping[int, Dictionary] | CrossLayerTranscoder
"""What stands in for the MLPs of a model: dictionaries by layer, or one transcoder across layers."""


def cross_layer_to_document(transcoder: CrossLayerTranscoder, metrics: Mapping[str, Any]) -> Document:
    """Serialise a cross-layer transcoder, with what was measured about it (JSON content)."""
    tensors = {
        f"{layer}.{name}": value.detach().float().cpu().numpy()
        for name in _PARTS
        for layer, value in enumerate(getattr(transcoder, name) or ())
    }
    content = {"schema": SCHEMA, "layers": transcoder.n_layers, "activation": transcoder.activation}
    content |= {} if transcoder.k is None else {"k": transcoder.k}
    return Document({**content, "metrics": dict(metrics)}, tensors)


_PARTS = ("w_enc", "b_enc", "w_dec", "b_dec", "w_skip", "threshold")
_OPTIONAL = ("w_skip", "threshold")


def cross_layer_from_document(document: Document, device: str = "cpu") -> CrossLayerTranscoder:
    """Read what `cross_layer_to_document` wrote, to some device.

    Raises:
        CorruptArtifactError: the document is not of this version, or a part is missing or has the wrong shape.
    """
    content = document.content
    if content.get("schema") != SCHEMA:
        raise CorruptArtifactError(
            f"expected a document of schema {SCHEMA!r}, got {content.get('schema')!r}", "convert the transcoder again"
        )
    try:
        if content["activation"] not in ACTIVATIONS:
            raise ValueError(f"the activation {content['activation']!r} is unknown")
        parts = {
            name: tuple(_tensor(document, f"{layer}.{name}").to(device) for layer in range(int(content["layers"])))
            for name in _PARTS
            if name not in _OPTIONAL or f"0.{name}" in document.tensors
        }
        k = content.get("k")
        return CrossLayerTranscoder(activation=content["activation"], k=None if k is None else int(k), **parts)
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptArtifactError(
            f"the cross-layer transcoder lacks a part: {error}", "convert the transcoder again"
        ) from error


def _tensor(document: Document, name: str) -> Tensor:
    return torch.from_numpy(document.tensors[name].copy())
