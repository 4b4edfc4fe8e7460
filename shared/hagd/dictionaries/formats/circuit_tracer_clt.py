"""Cross-layer transcoders of circuit-tracer: `config.yaml` beside `W_enc_0.safetensors`, `W_dec_0.safetensors`, ...

W_enc_l: W_enc_l (d_feature, d_model)   b_enc_l   b_dec_l   threshold_l for a JumpReLU
         W_skip_l (d_model, d_model), applied as x W_skip, where there is a skip path
W_dec_l: W_dec_l (d_feature, n_layers - l, d_model), the second axis being the layers from l on

ReLU and JumpReLU are all there is: a TopK has no counterpart.
"""

from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save_file
from torch import Tensor

from hagd.dictionaries.cross_layer import CrossLayerTranscoder
from hagd.dictionaries.formats.card import Layout
from hagd.dictionaries.formats.files import Folder, take
from hagd.dictionaries.formats.found import Found, positive
from hagd.dictionaries.formats.spaces import space_of
from hagd.errors import InvalidInputError
from hagd.models.weights import check_finite, owned

NAME = "circuit-tracer-clt"
FILES = ("config.yaml", "W_enc_*.safetensors", "W_dec_*.safetensors")
KIND = "cross_layer_transcoder"
LAYOUT = Layout(
    "circuit-tracer",
    "with circuit-tracer. Tensors: `W_enc_{layer}` (d_feature, d_model), `b_enc_{layer}`, `b_dec_{layer}`,\n"
    "`W_dec_{layer}` (d_feature, layers from this one on, d_model), and where present `W_skip_{layer}` (applied as\n"
    "x W) and `threshold_{layer}`.",
)


def matches(folder: Folder) -> bool:
    return folder.has("config.yaml") and folder.yaml("config.yaml").get("model_kind") == KIND


def read(folder: Folder) -> Found:
    """Read such a folder.

    Raises:
        InvalidInputError: a layer is missing or damaged, or layers do not fit each other.
    """
    config = folder.yaml("config.yaml")
    count = folder.count("W_enc_")
    if count == 0:
        raise InvalidInputError(f"{folder.path.name} holds no W_enc_0.safetensors", "the folder is incomplete")
    encoders = [folder.tensors(f"W_enc_{layer}.safetensors") for layer in range(count)]

    def part(name: str) -> list[Tensor]:
        return [owned(take(it, f"{name}_{layer}", f"layer {layer}")) for layer, it in enumerate(encoders)]

    if any(("W_skip_0" in encoders[0]) != (f"W_skip_{layer}" in it) for layer, it in enumerate(encoders)):
        raise InvalidInputError(f"some layers in {folder.path.name} have a W_skip and others none", "fetch it again")
    w_dec = [take(folder.tensors(f"W_dec_{it}.safetensors"), f"W_dec_{it}", f"layer {it}") for it in range(count)]
    thresholds = part("threshold") if "threshold_0" in encoders[0] else None
    return Found(
        source_format=NAME,
        content=make_cross_layer(
            w_enc=[w.mT for w in part("W_enc")],
            b_enc=part("b_enc"),
            w_dec=[owned(w.transpose(0, 1)) if w.dim() == 3 else w for w in w_dec],
            b_dec=part("b_dec"),
            threshold=thresholds and [positive(it, layer) for layer, it in enumerate(thresholds)],
            w_skip=part("W_skip") if "W_skip_0" in encoders[0] else None,
        ),
        space=space_of(str(config.get("feature_input_hook")), str(config.get("feature_output_hook"))),
        n_layers=count,
        base_model=config.get("model_name"),
    )


def write(transcoder: CrossLayerTranscoder, folder: Path, base_model: str) -> None:
    """Write a folder that circuit-tracer loads: a transcoder of the MLP's own input.

    Raises:
        InvalidInputError: its activation has no counterpart there.
    """
    if transcoder.activation != "relu" or transcoder.k is not None:
        named = transcoder.activation if transcoder.k is None else f"TopK of {transcoder.k}"
        raise InvalidInputError(
            f"circuit-tracer has cross-layer transcoders with ReLU or JumpReLU, this one is {named}",
            "write it in the layout hf, or train with corpus-transcoder.rule=batch-topk",
        )
    for layer in range(transcoder.n_layers):
        tensors = {"W_enc": transcoder.w_enc[layer].mT, "b_enc": transcoder.b_enc[layer]}
        tensors["b_dec"] = transcoder.b_dec[layer]
        if transcoder.w_skip is not None:
            tensors["W_skip"] = transcoder.w_skip[layer]
        if transcoder.threshold is not None:
            # Below 0 it is as good as 0 to our ReLU, and lets negative values through there.
            tensors["threshold"] = transcoder.threshold[layer].clamp(min=0)
        _save(folder, f"W_enc_{layer}", {f"{name}_{layer}": value for name, value in tensors.items()})
        _save(folder, f"W_dec_{layer}", {f"W_dec_{layer}": transcoder.w_dec[layer].transpose(0, 1)})
    config: dict[str, Any] = {
        "model_name": base_model,
        "model_kind": KIND,
        "feature_input_hook": "mlp.hook_in",
        "feature_output_hook": "hook_mlp_out",
    }
    # Last, as whoever reads the folder takes it for complete when the config is there.
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def _save(folder: Path, name: str, tensors: dict[str, Tensor]) -> None:
    there = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    save_file(there, folder / f"{name}.safetensors")


def make_cross_layer(
    *,
    w_enc: list[Tensor],
    b_enc: list[Tensor],
    w_dec: list[Tensor],
    b_dec: list[Tensor],
    threshold: list[Tensor] | None,
    w_skip: list[Tensor] | None = None,
) -> CrossLayerTranscoder:
    """Build a cross-layer transcoder from tensors that nobody has looked at yet.

    Raises:
        InvalidInputError: shapes do not fit each other, or a number is NaN or infinite.
    """
    parts = {"w_enc": w_enc, "b_enc": b_enc, "w_dec": w_dec, "b_dec": b_dec, "threshold": threshold or []}
    parts |= {} if w_skip is None else {"w_skip": w_skip}
    for name, values in parts.items():
        check_finite({f"{name} of layer {layer}": value for layer, value in enumerate(values)})
    try:
        return CrossLayerTranscoder(
            activation="relu",
            w_enc=tuple(w_enc),
            b_enc=tuple(b_enc),
            w_dec=tuple(w_dec),
            b_dec=tuple(b_dec),
            w_skip=None if w_skip is None else tuple(w_skip),
            threshold=None if threshold is None else tuple(threshold),
        )
    except ValueError as error:
        raise InvalidInputError(
            f"the tensors do not make a cross-layer transcoder: {error}", "the file is damaged, or of another layout"
        ) from error
