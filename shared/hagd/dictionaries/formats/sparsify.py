"""Transcoders of eai-sparsify: a folder per hook point, `layers.3.mlp/cfg.json` beside `sae.safetensors`.

    encoder.weight (d_feature, d_model)   encoder.bias   W_dec (d_feature, d_model)   b_dec
    W_skip (d_model, d_model), applied as x W_skip^T, where there is one

They read the input of the module that the folder is named after and reconstruct its output. Features are the k largest
of relu(x W + b), whatever the norms of their decoders.
"""

import re
from collections.abc import Mapping
from typing import Any

from hagd.dictionaries.dictionary import Dictionary
from hagd.dictionaries.formats.files import Folder, take, unknown_activation
from hagd.dictionaries.formats.found import Found, layers_of, make_transcoder
from hagd.errors import InvalidInputError

NAME = "sparsify"
_WEIGHTS = "sae.safetensors"
FILES = ("config.json", "**/cfg.json", f"**/{_WEIGHTS}")
_MLP = re.compile(r"(?:^|\.)(?:layers|h)\.(\d+)\.mlp$")


def matches(folder: Folder) -> bool:
    return bool(folder.below("cfg.json", _WEIGHTS))


def read(folder: Folder) -> Found:
    """Read the folder of one layer, or one that holds several.

    Raises:
        InvalidInputError: one is an autoencoder, is not of an MLP, or is damaged.
    """
    run = _run_settings(folder)
    return Found(
        source_format=NAME,
        content=layers_of(map(_read_layer, folder.below("cfg.json", _WEIGHTS)), folder.path.name),
        space="mlp-input",
        base_model=run.get("model"),
        revision=run.get("revision"),
    )


def _run_settings(folder: Folder) -> Mapping[str, Any]:
    """Give what the training run wrote beside its layers, which names the model; copies of single layers lack it."""
    for place in (folder, Folder(folder.path.resolve().parent)):
        if place.has("config.json"):
            return place.json("config.json")
    return {}


def _read_layer(folder: Folder) -> Dictionary:
    name = folder.path.resolve().name
    config = folder.json("cfg.json")
    if not config.get("transcode"):
        raise InvalidInputError(f"{name} is an autoencoder (transcode is not set)", "give a transcoder of MLPs")
    if not (of_mlp := _MLP.search(name)):
        raise InvalidInputError(
            f"{name} is not the folder of an MLP", "name it as its hook point, such as layers.3.mlp or h.3.mlp"
        )
    if config.get("activation", "topk") != "topk" or config.get("signed"):
        shown = "signed topk" if config.get("signed") else config.get("activation")
        raise unknown_activation(shown, "topk")
    tensors = folder.tensors(_WEIGHTS)
    skip = tensors.get("W_skip")
    return make_transcoder(
        int(of_mlp.group(1)),
        w_enc=take(tensors, "encoder.weight", name).mT,
        b_enc=take(tensors, "encoder.bias", name),
        w_dec=take(tensors, "W_dec", name),
        b_dec=take(tensors, "b_dec", name),
        w_skip=None if skip is None else skip.mT,
        k=int(config.get("k", 0)),
        ranked_by="activation",
    )
