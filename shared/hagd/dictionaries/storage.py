"""Dictionaries as an artifact: tensors by layer, shapes and metrics as JSON."""

from collections.abc import Mapping
from typing import Any, cast, get_args

import torch
from torch import Tensor

from hagd.artifacts.document import Document
from hagd.dictionaries import cross_layer, paper_autoencoder
from hagd.dictionaries.cross_layer import (
    CrossLayerTranscoder,
    Dictionaries,
    cross_layer_from_document,
    cross_layer_to_document,
)
from hagd.dictionaries.dictionary import Dictionary, DictionaryKind, Ranking
from hagd.errors import CorruptArtifactError, InvalidInputError
from hagd.models.language_model import ACTIVATIONS

SCHEMA = "hagd.dictionaries/v1"
_REQUIRED = ("w_enc", "b_enc", "w_dec", "b_dec")
_OPTIONAL = ("w_gate", "b_gate", "w_skip", "threshold")


def dictionaries_to_document(dictionaries: Mapping[int, Dictionary], metrics: Mapping[str, Any]) -> Document:
    """Serialise the dictionaries of a model, with what was measured about them (JSON content)."""
    layers: list[dict[str, Any]] = []
    tensors: dict[str, Any] = {}
    for layer, dictionary in sorted(dictionaries.items()):
        entry = {"layer": layer, "kind": dictionary.kind, "activation": dictionary.activation, "k": dictionary.k}
        # Left out where it is the default, as an absent tensor is: what training gives keeps its bytes.
        layers.append(entry if dictionary.ranked_by == "contribution" else entry | {"ranked_by": dictionary.ranked_by})
        for name in (*_REQUIRED, *_OPTIONAL):
            value = cast("Tensor | None", getattr(dictionary, name))
            if value is not None:
                tensors[f"{layer}.{name}"] = value.detach().float().cpu().numpy()
    return Document({"schema": SCHEMA, "layers": layers, "metrics": dict(metrics)}, tensors)


def dictionaries_from_document(document: Document, device: str = "cpu") -> dict[int, Dictionary]:
    """Read what `dictionaries_to_document` wrote, to some device.

    Raises:
        CorruptArtifactError: the document is not of this version, or a part is missing or has the wrong shape.
    """
    if document.content.get("schema") != SCHEMA:
        raise CorruptArtifactError(
            f"expected a document of schema {SCHEMA!r}, got {document.content.get('schema')!r}",
            "run the transcoder stage again",
        )
    try:
        return {int(entry["layer"]): _read(document, entry, device) for entry in document.content["layers"]}
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptArtifactError(
            f"the dictionaries lack a part: {error}", "run the transcoder stage again"
        ) from error


def any_dictionaries_to_document(dictionaries: Dictionaries, metrics: Mapping[str, Any]) -> Document:
    """Serialise dictionaries of layers, or a transcoder across layers."""
    if isinstance(dictionaries, CrossLayerTranscoder):
        return cross_layer_to_document(dictionaries, metrics)
    return dictionaries_to_document(dictionaries, metrics)


def any_dictionaries_from_document(document: Document, device: str = "cpu") -> Dictionaries:
    """Read dictionaries of layers, or a transcoder across layers; errors as in `dictionaries_from_document`.

    Raises:
        InvalidInputError: it holds the paper's autoencoders, which replace no MLP.
    """
    if document.content.get("schema") == paper_autoencoder.SCHEMA:
        raise InvalidInputError(
            "these are the paper's autoencoders of the residual stream, which replace no MLP",
            "they are there to be measured; train dictionaries without --dictionary hagd-paper",
        )
    if document.content.get("schema") == cross_layer.SCHEMA:
        return cross_layer_from_document(document, device)
    return dictionaries_from_document(document, device)


def _read(document: Document, entry: Mapping[str, Any], device: str) -> Dictionary:
    layer = int(entry["layer"])
    if entry["kind"] not in get_args(DictionaryKind) or entry["activation"] not in ACTIVATIONS:
        raise ValueError(f"layer {layer} is of an unknown kind or activation")
    ranked_by = entry.get("ranked_by", "contribution")
    if ranked_by not in get_args(Ranking):
        raise ValueError(f"layer {layer} ranks its features by {ranked_by!r}")
    there = [name for name in _OPTIONAL if f"{layer}.{name}" in document.tensors]
    arrays = {name: document.tensors[f"{layer}.{name}"] for name in (*_REQUIRED, *there)}
    parts = {name: torch.from_numpy(array.copy()).to(device) for name, array in arrays.items()}
    check_shapes(layer, parts)
    k = None if entry["k"] is None else int(entry["k"])
    if layer < 0 or (k is not None and not 0 < k <= len(parts["b_enc"])):
        raise ValueError(f"layer {layer} keeps {k} of {len(parts['b_enc'])} features")
    if (entry["kind"] == "gated") > ("w_gate" in parts):
        raise ValueError(f"layer {layer} is gated and has no gate")
    return Dictionary(
        kind=entry["kind"],
        layer=layer,
        activation=entry["activation"],
        k=k,
        w_gate=parts.get("w_gate"),
        b_gate=parts.get("b_gate"),
        w_enc=parts["w_enc"],
        b_enc=parts["b_enc"],
        w_dec=parts["w_dec"],
        b_dec=parts["b_dec"],
        w_skip=parts.get("w_skip"),
        threshold=parts.get("threshold"),
        ranked_by=ranked_by,
    )


def check_shapes(layer: int, parts: Mapping[str, Tensor]) -> None:
    """Compare the tensors of a dictionary, by name, with the shapes that its encoder implies.

    Raises:
        ValueError: names the first that does not fit.
    """
    if parts["w_enc"].dim() != 2:
        raise ValueError(f"w_enc of layer {layer} has {parts['w_enc'].dim()} axes, expected 2")
    d_model, d_feature = parts["w_enc"].shape
    expected: dict[str, tuple[int, ...]] = {
        "w_enc": (d_model, d_feature),
        "b_enc": (d_feature,),
        "w_dec": (d_feature, d_model),
        "b_dec": (d_model,),
        "w_gate": (d_model, d_feature),
        "b_gate": (d_feature,),
        "w_skip": (d_model, d_model),
        "threshold": (d_feature,),
    }
    for name, value in parts.items():
        if tuple(value.shape) != expected[name]:
            raise ValueError(f"{name} of layer {layer} has shape {tuple(value.shape)}, expected {expected[name]}")
