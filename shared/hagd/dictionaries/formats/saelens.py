"""Transcoders of SAELens: `cfg.json` beside `sae_weights.safetensors`, one folder per layer.

    W_enc (d_model, d_feature)   b_enc   W_dec (d_feature, d_model)   b_dec
    threshold for a JumpReLU; W_skip (d_model, d_model), applied as x W_skip^T

Since version 6 the config has `architecture` and `metadata` with model and hook points; before, all stood at its top.
`ln2.hook_normalized` is what TransformerLens names so in the model as it was loaded: if that folded the gain of the
norm into the weights (`fold_ln`), both it and `mlp.hook_in` come without gain and bias.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hagd.dictionaries.dictionary import Dictionary
from hagd.dictionaries.formats.files import Folder, take, unknown_activation
from hagd.dictionaries.formats.found import Found, InputSpace, checked_scale, layers_of, make_transcoder
from hagd.dictionaries.formats.spaces import layer_of, space_of
from hagd.errors import InvalidInputError

NAME = "saelens"
_WEIGHTS = "sae_weights.safetensors"
_SCALER = "activation_scaler.json"
FILES = ("**/cfg.json", f"**/{_WEIGHTS}", f"**/{_SCALER}")
_PARTS = ("W_enc", "b_enc", "W_dec", "b_dec")
_THRESHOLDS = {"jumprelu", "jumprelu_transcoder", "jumprelu_skip_transcoder"}
_SKIPS = {"skip_transcoder", "jumprelu_skip_transcoder"}
_KNOWN = {"standard", "topk", "transcoder"} | _THRESHOLDS | _SKIPS
_CENTRED = {"standard", "topk", "jumprelu"}
"""Those that subtract b_dec from their input where the config does not say."""
_OLD_NAMES = {"hook_point": "hook_name", "out_hook_point": "hook_name_out", "activation_fn_str": "activation_fn"}
_NOT_RELU = {"tanh-relu", "topk"}


def matches(folder: Folder) -> bool:
    return any("architecture" in config or "hook_name" in config for config in map(_config, _folders(folder)))


def read(folder: Folder) -> Found:
    """Read the folder of one layer, or one that holds several.

    Raises:
        InvalidInputError: one is an autoencoder, is normalised token by token, or is damaged, or they do not belong
            together.
    """
    inner = _folders(folder)
    configs = [_config(it) for it in inner]
    spaces: set[InputSpace] = {_space(config) for config in configs}
    models = {(config.get("model_name"), _revision(config)) for config in configs}
    if len(spaces) > 1 or len(models) > 1:
        raise InvalidInputError(
            f"{folder.path.name} holds transcoders of several models or hook points", "give the folder of one set"
        )
    read = [_read_layer(it, config) for it, config in zip(inner, configs, strict=True)]
    content = layers_of(read, folder.path.name)
    base_model, revision = models.pop()
    return Found(NAME, content, spaces.pop(), base_model=base_model, revision=revision)


def _folders(folder: Folder) -> list[Folder]:
    return folder.below("cfg.json", _WEIGHTS)


def _config(folder: Folder) -> dict[str, Any]:
    """Give the settings of both generations as one flat table."""
    given = folder.json("cfg.json")
    metadata = given.get("metadata")
    flat = {**given, **(metadata if isinstance(metadata, Mapping) else {})}
    config = {_OLD_NAMES.get(name, name): value for name, value in flat.items()}
    if config.get("activation_fn") == "topk" and config.get("architecture", "standard") == "standard":
        config |= {"architecture": "topk", "k": (config.get("activation_fn_kwargs") or {}).get("k")}
    return config


def _space(config: Mapping[str, Any]) -> InputSpace:
    hook_in = str(config.get("hook_name"))
    space = space_of(hook_in, str(config.get("hook_name_out", hook_in)))
    loaded = config.get("model_from_pretrained_kwargs") or {}
    if loaded.get("center_writing_weights"):
        raise InvalidInputError(
            "the file was trained with center_writing_weights, which changes what the model's MLPs write",
            "use a transcoder that was trained on the model as it is",
        )
    return "normalised" if loaded.get("fold_ln") and space != "residual" else space


def _revision(config: Mapping[str, Any]) -> str | None:
    return (config.get("model_from_pretrained_kwargs") or {}).get("revision")


def _read_layer(folder: Folder, config: Mapping[str, Any]) -> Dictionary:
    architecture = config.get("architecture", "standard")
    if architecture not in _KNOWN:
        raise unknown_activation(architecture, ", ".join(sorted(_KNOWN)))
    if architecture != "topk" and config.get("activation_fn") in _NOT_RELU:
        raise unknown_activation(config["activation_fn"], "relu")
    tensors = folder.tensors(_WEIGHTS)
    w_enc, b_enc, w_dec, b_dec = (take(tensors, name, _WEIGHTS).float() for name in _PARTS)
    _refuse_finetuned(tensors)
    scale = _scale(folder, config)
    if config.get("apply_b_dec_to_input", architecture in _CENTRED):
        b_enc = b_enc - b_dec @ w_enc
    layer = layer_of(str(config["hook_name"]))
    of_topk = architecture == "topk"
    return make_transcoder(
        folder.layer() if layer is None else layer,
        w_enc=w_enc * scale,
        b_enc=b_enc,
        w_dec=w_dec / scale,
        b_dec=b_dec / scale,
        w_skip=take(tensors, "W_skip", _WEIGHTS).mT if architecture in _SKIPS else None,
        # A feature is relu(x) where x exceeds its threshold, so a negative one is as good as 0.
        threshold=take(tensors, "threshold", _WEIGHTS).clamp(min=0) if architecture in _THRESHOLDS else None,
        k=int(config.get("k") or 0) if of_topk else None,
        ranked_by="activation" if of_topk and not config.get("rescale_acts_by_decoder_norm") else "contribution",
    )


def _scale(folder: Folder, config: Mapping[str, Any]) -> float:
    """Give the factor that inputs and outputs had in training and the weights are still to absorb."""
    match config.get("normalize_activations"):
        case None | "none" | False:
            return 1.0
        case "expected_average_only_in" | True if folder.has(_SCALER):
            return checked_scale(float(folder.json(_SCALER).get("scaling_factor") or 1), f"scaling_factor of {_SCALER}")
        case "expected_average_only_in" | True:
            raise InvalidInputError(
                f"the file was trained on scaled activations, and no {_SCALER} says by what",
                "fold the factor in with fold_activation_norm_scaling_factor of SAELens, and save it again",
            )
        case other:
            raise InvalidInputError(
                f"the file normalises activations by {other!r}, token by token, which no weights can do",
                "use one that was trained with normalize_activations none",
            )


def _refuse_finetuned(tensors: Mapping[str, Tensor]) -> None:
    scaling = tensors.get("scaling_factor")
    if scaling is not None and not torch.allclose(scaling, torch.ones_like(scaling)):
        raise InvalidInputError(
            "the file holds a scaling_factor that was finetuned and is not folded into W_dec",
            "multiply the rows of W_dec by it and drop it",
        )
