"""Per-layer transcoders of circuit-tracer: `config.yaml` beside `layer_0.safetensors`, `layer_1.safetensors`, ...

    W_enc (d_feature, d_model)   b_enc   W_dec (d_feature, d_model)   b_dec
    W_skip (d_model, d_model), applied as x W_skip^T, and activation_function.threshold, where there is one

The config names the model, the hook points, and `activation` with `k`; without `activation` a file with thresholds is
a JumpReLU and one without is a ReLU. Its TopK keeps the k largest pre-activations even where they are negative. Read
here they are 0, which differs only at a token where fewer than k features are positive. Releases up to 0.5.0 know no
`activation` and take a TopK for a ReLU.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save_file
from torch import Tensor

from hagd.dictionaries.dictionary import Dictionary
from hagd.dictionaries.formats.card import Layout
from hagd.dictionaries.formats.files import Folder, take, unknown_activation
from hagd.dictionaries.formats.found import Found, layers_of, make_transcoder, positive
from hagd.dictionaries.formats.spaces import space_of
from hagd.errors import InvalidInputError

NAME = "circuit-tracer"
FILES = ("config.yaml", "layer_*.safetensors")
KIND = "transcoder_set"
LAYOUT = Layout(
    NAME,
    "with circuit-tracer. Tensors of `layer_{layer}.safetensors`: `W_enc` and `W_dec` (d_feature, d_model), `b_enc`,\n"
    "`b_dec`, and where present `W_skip` (applied as x W^T) and `activation_function.threshold`.",
)
_THRESHOLD = "activation_function.threshold"


def matches(folder: Folder) -> bool:
    return folder.has("config.yaml") and folder.yaml("config.yaml").get("model_kind") == KIND


def read(folder: Folder) -> Found:
    """Read such a folder, all layers of it.

    Raises:
        InvalidInputError: a layer is missing, damaged or does not fit the config.
    """
    config = folder.yaml("config.yaml")
    if "transcoders" in config:
        raise InvalidInputError(
            "config.yaml lists files elsewhere under `transcoders`", "give the folder that holds those files themselves"
        )
    count = folder.count("layer_")
    return Found(
        source_format=NAME,
        content=layers_of((_read_layer(folder, layer, config) for layer in range(count)), folder.path.name),
        space=space_of(str(config.get("feature_input_hook")), str(config.get("feature_output_hook"))),
        n_layers=count,
        base_model=config.get("model_name"),
    )


def _read_layer(folder: Folder, layer: int, config: Mapping[str, Any]) -> Dictionary:
    name = f"layer_{layer}.safetensors"
    tensors = folder.tensors(name)
    skip, threshold = tensors.get("W_skip"), tensors.get(_THRESHOLD)
    activation = config.get("activation") or ("relu" if threshold is None else "jump_relu")
    if activation not in ("relu", "topk", "jump_relu"):
        raise unknown_activation(activation, "relu, topk, jump_relu")
    return make_transcoder(
        layer,
        w_enc=take(tensors, "W_enc", name).mT,
        b_enc=take(tensors, "b_enc", name),
        w_dec=take(tensors, "W_dec", name),
        b_dec=take(tensors, "b_dec", name),
        w_skip=None if skip is None else skip.mT,
        threshold=positive(take(tensors, _THRESHOLD, name), layer) if activation == "jump_relu" else None,
        k=_k(config, tensors) if activation == "topk" else None,
        ranked_by="activation" if activation == "topk" else "contribution",
    )


def _k(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> int:
    k = config.get("k", tensors.get("k"))
    if k is None:
        raise InvalidInputError("config.yaml asks for topk and gives no k", "add the k that they were trained with")
    return int(k)


def write(dictionaries: Mapping[int, Dictionary], folder: Path, base_model: str) -> None:
    """Write a folder that circuit-tracer loads: transcoders of the MLP's own input, for every layer of a model.

    Raises:
        InvalidInputError: a layer is missing, or a kind, activation or mixture of layers has no counterpart there.
    """
    if list(dictionaries) != list(range(len(dictionaries))):
        raise InvalidInputError(
            f"circuit-tracer needs every layer from 0 on, here are {sorted(dictionaries)}", "convert all layers at once"
        )
    settings = {_settings_of(dictionary) for dictionary in dictionaries.values()}
    if len(settings) > 1:
        raise InvalidInputError(
            f"circuit-tracer has one activation for all layers, here are {sorted(map(str, settings))}",
            "write them in the layout hf, which tells layers apart",
        )
    activation, k = settings.pop()
    config: dict[str, Any] = {
        "model_name": base_model,
        "model_kind": KIND,
        "feature_input_hook": "mlp.hook_in",
        "feature_output_hook": "hook_mlp_out",
        "activation": activation,
    }
    config |= {} if k is None else {"k": k}
    for layer, dictionary in dictionaries.items():
        save_file(_tensors_of(dictionary), folder / f"layer_{layer}.safetensors")
    # Last, as whoever reads the folder takes it for complete when the config is there.
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def _settings_of(dictionary: Dictionary) -> tuple[str, int | None]:
    if dictionary.w_gate is not None or dictionary.activation != "relu":
        raise InvalidInputError(
            f"circuit-tracer has no {dictionary.kind} dictionaries with {dictionary.activation} "
            f"(layer {dictionary.layer})",
            "write them in the layout hf, or train on text with corpus-transcoder.kind=transcoder and "
            "corpus-transcoder.activation=relu",
        )
    if dictionary.k is not None and dictionary.threshold is not None:
        raise InvalidInputError(
            f"layer {dictionary.layer} has both a k and thresholds, circuit-tracer knows one of them", "drop one"
        )
    if dictionary.k is not None:
        return "topk", dictionary.k
    return ("relu", None) if dictionary.threshold is None else ("jump_relu", None)


def _tensors_of(dictionary: Dictionary) -> dict[str, Tensor]:
    """Give the tensors of a layer. There TopK compares activations, so unless ours does too the decoder's norm moves
    into the encoder, after which both rank alike."""
    w_enc, b_enc, w_dec = dictionary.w_enc, dictionary.b_enc, dictionary.w_dec
    if dictionary.k is not None and dictionary.ranked_by == "contribution":
        norms = w_dec.norm(dim=-1)
        w_enc, b_enc, w_dec = w_enc * norms, b_enc * norms, w_dec / norms.where(norms > 0, 1)[:, None]
    tensors = {"W_enc": w_enc.mT, "b_enc": b_enc, "W_dec": w_dec, "b_dec": dictionary.b_dec}
    if dictionary.w_skip is not None:
        tensors["W_skip"] = dictionary.w_skip.mT
    if dictionary.threshold is not None:
        # Below 0 it is as good as 0 to our ReLU, and lets negative values through there.
        tensors[_THRESHOLD] = dictionary.threshold.clamp(min=0)
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
