"""Transcoders of CLT-Forge: `clt_cfg.json` beside `clt_weights.safetensors`, or `rank0_clt_weights.safetensors`, ...

    W_enc (n_layers, d_model, d_feature)   b_enc (n_layers, d_feature)   log_threshold (n_layers, d_feature)
    estimated_norm_scaling_factor_in, _out (n_layers), by which inputs and outputs were multiplied in training

With `cross_layer_decoders` there is a decoder for every pair of a source and a later target, sources first: W_dec
(pairs, d_feature, d_model) and b_dec (pairs, d_model), whose biases add up. Without, each layer has its own. They read
`ln2.hook_normalized`. Files of several ranks hold some of the features each.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hagd.dictionaries.cross_layer import CrossLayerTranscoder
from hagd.dictionaries.dictionary import Dictionary
from hagd.dictionaries.formats.circuit_tracer_clt import make_cross_layer
from hagd.dictionaries.formats.files import Folder, take
from hagd.dictionaries.formats.found import Found, checked_scale, layers_of, make_transcoder
from hagd.errors import InvalidInputError

NAME = "clt-forge"
_CONFIG, _WEIGHTS = "clt_cfg.json", "clt_weights.safetensors"
FILES = (_CONFIG, _WEIGHTS, f"rank*_{_WEIGHTS}")
_FEATURE_AXIS = {"W_enc": 2, "b_enc": 1, "W_dec": 1, "log_threshold": 1}


def matches(folder: Folder) -> bool:
    return folder.has(_CONFIG)


def read(folder: Folder) -> Found:
    """Read such a folder.

    Raises:
        InvalidInputError: a file is missing or damaged, or tensors do not fit each other.
    """
    config = folder.json(_CONFIG)
    tensors = {name: tensor.float() for name, tensor in _tensors(folder, config).items()}
    into, out = (_scales(tensors, side) for side in ("in", "out"))
    w_enc = take(tensors, "W_enc", _WEIGHTS)
    if w_enc.dim() != 3 or not len(w_enc) == len(into) == len(out) == config.get("n_layers", len(w_enc)):
        raise InvalidInputError(f"W_enc has shape {tuple(w_enc.shape)}, which is not of the config", "fetch it again")
    tensors["W_enc"] = w_enc * into[:, None, None]
    return Found(
        source_format=NAME,
        content=_across(tensors, out) if config.get("cross_layer_decoders") else _per_layer(tensors, out),
        space="hook-normalized",
        n_layers=len(w_enc),
        base_model=config.get("model_name"),
    )


def _across(tensors: Mapping[str, Tensor], out: Tensor) -> CrossLayerTranscoder:
    layers = len(out)
    pairs = [(source, target) for source in range(layers) for target in range(source, layers)]
    w_dec, b_dec = take(tensors, "W_dec", _WEIGHTS), take(tensors, "b_dec", _WEIGHTS)
    if not len(w_dec) == len(b_dec) == len(pairs):
        raise InvalidInputError(
            f"there are {len(w_dec)} decoders for {layers} layers, expected {len(pairs)}", "the file is damaged"
        )
    scaled = w_dec / out[[target for _, target in pairs]][:, None, None]
    of_source = torch.tensor([source for source, _ in pairs])
    of_target = torch.tensor([target for _, target in pairs])
    return make_cross_layer(
        w_enc=list(tensors["W_enc"]),
        b_enc=list(take(tensors, "b_enc", _WEIGHTS)),
        w_dec=[scaled[of_source == source] for source in range(layers)],
        b_dec=[b_dec[of_target == target].sum(0) / out[target] for target in range(layers)],
        threshold=list(take(tensors, "log_threshold", _WEIGHTS).exp()),
    )


def _per_layer(tensors: Mapping[str, Tensor], out: Tensor) -> dict[int, Dictionary]:
    w_dec, b_dec = take(tensors, "W_dec", _WEIGHTS), take(tensors, "b_dec", _WEIGHTS)
    b_enc, log_threshold = take(tensors, "b_enc", _WEIGHTS), take(tensors, "log_threshold", _WEIGHTS)
    read = [
        make_transcoder(
            layer,
            w_enc=tensors["W_enc"][layer],
            b_enc=b_enc[layer],
            w_dec=w_dec[layer] / scale,
            b_dec=b_dec[layer] / scale,
            threshold=log_threshold[layer].exp(),
        )
        for layer, scale in enumerate(out)
    ]
    return layers_of(read, _WEIGHTS)


def _scales(tensors: Mapping[str, Tensor], side: str) -> Tensor:
    name = f"estimated_norm_scaling_factor_{side}"
    scales = take(tensors, name, _WEIGHTS)
    return torch.tensor([checked_scale(float(scale), name) for scale in scales])


def _tensors(folder: Folder, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Read one file, or put the features of several together."""
    if not config.get("feature_sharding"):
        return folder.tensors(_WEIGHTS)
    count = len(list(folder.path.glob(f"rank*_{_WEIGHTS}")))
    shards = [folder.tensors(f"rank{rank}_{_WEIGHTS}") for rank in range(int(config.get("world_size", count)))]
    if not shards:
        raise InvalidInputError(f"{folder.path.name} holds no rank0_{_WEIGHTS}", "the folder is incomplete")
    joined = {
        name: torch.cat([take(shard, name, f"rank {rank}") for rank, shard in enumerate(shards)], dim=axis)
        for name, axis in _FEATURE_AXIS.items()
    }
    return shards[0] | joined
