"""Transcoders of llamascopium (Language-Model-SAEs): `config.json` beside `sae_weights.safetensors`, one per layer.

    W_E (d_model, d_feature)   b_E   W_D (d_feature, d_model)   b_D
    activation_function.log_jumprelu_threshold   dataset_average_activation_norm.{hook point}, one number each

With `norm_activation: dataset-wise` weights see inputs and outputs scaled to a mean norm of sqrt(d_model). With
`sparsity_include_decoder_norm` the threshold, or TopK, looks at the activation times the norm of its decoder.
"""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hagd.dictionaries.dictionary import Dictionary
from hagd.dictionaries.formats.files import Folder, take, unknown_activation
from hagd.dictionaries.formats.found import Found, InputSpace, checked_scale, layers_of, make_transcoder
from hagd.dictionaries.formats.spaces import layer_of, space_of
from hagd.errors import InvalidInputError

NAME = "llamascopium"
_WEIGHTS = "sae_weights.safetensors"
FILES = ("**/config.json", f"**/{_WEIGHTS}")
_KINDS = {"relu", "topk", "jumprelu"}


def matches(folder: Folder) -> bool:
    return any("sae_type" in inner.json("config.json") for inner in folder.below("config.json", _WEIGHTS))


def read(folder: Folder) -> Found:
    """Read the folder of one layer, or one that holds several.

    Raises:
        InvalidInputError: one is not a transcoder of MLPs, is normalised token by token, or is damaged, or they do not
            belong together.
    """
    inner = folder.below("config.json", _WEIGHTS)
    configs = [it.json("config.json") for it in inner]
    spaces: set[InputSpace] = {space_of(str(it.get("hook_point_in")), str(it.get("hook_point_out"))) for it in configs}
    if len(spaces) > 1:
        raise InvalidInputError(
            f"the layers in {folder.path.name} read different hook points", "give the folder of one set"
        )
    content = layers_of(map(_read_layer, inner, configs), folder.path.name)
    return Found(source_format=NAME, content=content, space=spaces.pop())


def _read_layer(folder: Folder, config: Mapping[str, Any]) -> Dictionary:
    if config.get("sae_type") != "sae":
        raise InvalidInputError(
            f"{folder.path.name} is of sae_type {config.get('sae_type')!r}, expected 'sae'", "give a transcoder of MLPs"
        )
    kind = str(config.get("act_fn", "relu")).lower()
    if config.get("use_glu_encoder"):
        kind = f"{kind} with use_glu_encoder"
    if kind not in _KINDS:
        raise unknown_activation(kind, ", ".join(sorted(_KINDS)))
    tensors = folder.tensors(_WEIGHTS)
    into, out = _scales(config, tensors)
    w_dec = take(tensors, "W_D", _WEIGHTS).float()
    with_norm = bool(config.get("sparsity_include_decoder_norm", True))
    bias = take(tensors, "b_D", _WEIGHTS) if config.get("use_decoder_bias", True) else w_dec.new_zeros(w_dec.shape[1])
    layer = layer_of(str(config["hook_point_in"]))
    return make_transcoder(
        folder.layer() if layer is None else layer,
        w_enc=take(tensors, "W_E", _WEIGHTS).float() * into,
        b_enc=take(tensors, "b_E", _WEIGHTS),
        w_dec=w_dec / out,
        b_dec=bias.float() / out,
        threshold=_threshold(tensors, w_dec, with_norm) if kind == "jumprelu" else None,
        k=int(config.get("top_k", 0)) if kind == "topk" else None,
        ranked_by="activation" if kind == "topk" and not with_norm else "contribution",
    )


def _threshold(tensors: Mapping[str, Tensor], w_dec: Tensor, with_norm: bool) -> Tensor:
    """Give the thresholds of plain activations; a feature that writes nothing never passes one of its contribution."""
    threshold = take(tensors, "activation_function.log_jumprelu_threshold", _WEIGHTS).float().exp()
    if not with_norm:
        return threshold
    norms = w_dec.norm(dim=-1)
    largest = threshold.new_tensor(3e38)
    return (threshold / norms).where(norms > 0, largest).clamp(max=largest)


def _scales(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[float, float]:
    """Give the factors by which inputs and outputs were multiplied in training."""
    mode = config.get("norm_activation", "dataset-wise")
    if mode == "inference":
        return 1.0, 1.0
    if mode != "dataset-wise":
        raise InvalidInputError(
            f"the file normalises activations {mode}, which no weights can do",
            "use one that was trained with norm_activation dataset-wise",
        )
    root = math.sqrt(float(config["d_model"])) if "d_model" in config else math.sqrt(tensors["W_E"].shape[0])
    names = [f"dataset_average_activation_norm.{config[side]}" for side in ("hook_point_in", "hook_point_out")]
    norms = [checked_scale(float(take(tensors, name, _WEIGHTS)), name) for name in names]
    return root / norms[0], root / norms[1]
