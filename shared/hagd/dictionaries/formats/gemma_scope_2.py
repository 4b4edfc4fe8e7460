"""Gemma Scope 2 transcoders of Gemma 3: `layer_3_width_16k_l0_small/config.json` beside `params.safetensors`.

    w_enc (d_model, d_feature)   b_enc   w_dec (d_feature, d_model)   b_dec   threshold: a JumpReLU
    affine_skip_connection (d_model, d_model), applied as x A, where there is one

The config names the modules whose output is read and written. Here that is the norm before the MLP, gain included,
and the norm after it.
"""

import re

from hagd.dictionaries.dictionary import Dictionary
from hagd.dictionaries.formats.files import Folder, take, unknown_activation
from hagd.dictionaries.formats.found import Found, layers_of, make_transcoder
from hagd.errors import InvalidInputError

NAME = "gemma-scope-2"
_PARAMS = "params.safetensors"
FILES = ("**/config.json", f"**/{_PARAMS}")
_READS = re.compile(r"layers\.(\d+)\.pre_feedforward_layernorm\.output$")
_WRITES = re.compile(r"layers\.(\d+)\.post_feedforward_layernorm\.output$")


def matches(folder: Folder) -> bool:
    return bool(folder.below("config.json", _PARAMS))


def read(folder: Folder) -> Found:
    """Read the folder of one layer, or one that holds one of each layer.

    Raises:
        InvalidInputError: it is an autoencoder or writes to several layers, a layer occurs twice, or it is damaged.
    """
    inner = folder.below("config.json", _PARAMS)
    named = [it.json("config.json").get("model_name") for it in inner]
    models = {str(name) for name in named if name is not None}
    if len(models) > 1:
        raise InvalidInputError(
            f"{folder.path.name} holds transcoders of several models: {sorted(models)}", "give the folder of one"
        )
    return Found(
        source_format=NAME,
        content=layers_of(map(_read_layer, inner), folder.path.name),
        space="mlp-input",
        base_model=next(iter(models), None),
    )


def _read_layer(folder: Folder) -> Dictionary:
    config = folder.json("config.json")
    reads, writes = str(config.get("hf_hook_point_in")), str(config.get("hf_hook_point_out"))
    found_in, found_out = _READS.search(reads), _WRITES.search(writes)
    if found_in is None or found_out is None or found_in.group(1) != found_out.group(1):
        raise InvalidInputError(
            f"{folder.path.name} reads {reads!r} and writes {writes!r}, which are not the two sides of one MLP",
            "give one of the folders transcoder or transcoder_all",
        )
    if config.get("architecture", "jump_relu") != "jump_relu":
        raise unknown_activation(config["architecture"], "jump_relu")
    tensors = folder.tensors(_PARAMS)
    return make_transcoder(
        int(found_in.group(1)),
        w_enc=take(tensors, "w_enc", _PARAMS),
        b_enc=take(tensors, "b_enc", _PARAMS),
        w_dec=take(tensors, "w_dec", _PARAMS),
        b_dec=take(tensors, "b_dec", _PARAMS),
        w_skip=tensors.get("affine_skip_connection"),
        # A feature is relu(x) where x exceeds its threshold, so a negative one is as good as 0.
        threshold=take(tensors, "threshold", _PARAMS).clamp(min=0),
    )
