"""Cross-layer transcoders of circuit-tracer: `config.yaml` beside `W_enc_0.safetensors`, `W_dec_0.safetensors`, ...

W_enc_l: W_enc_l (d_feature, d_model)   b_enc_l   b_dec_l   threshold_l for a JumpReLU
W_dec_l: W_dec_l (d_feature, n_layers - l, d_model), the second axis being the layers from l on
"""

from torch import Tensor

from hagd.dictionaries.cross_layer import CrossLayerTranscoder
from hagd.dictionaries.formats.files import Folder, take
from hagd.dictionaries.formats.found import Found, positive
from hagd.dictionaries.formats.spaces import space_of
from hagd.errors import InvalidInputError
from hagd.models.weights import check_finite, owned

NAME = "circuit-tracer-clt"
FILES = ("config.yaml", "W_enc_*.safetensors", "W_dec_*.safetensors")
KIND = "cross_layer_transcoder"


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
        ),
        space=space_of(str(config.get("feature_input_hook")), str(config.get("feature_output_hook"))),
        n_layers=count,
        base_model=config.get("model_name"),
    )


def make_cross_layer(
    *,
    w_enc: list[Tensor],
    b_enc: list[Tensor],
    w_dec: list[Tensor],
    b_dec: list[Tensor],
    threshold: list[Tensor] | None,
) -> CrossLayerTranscoder:
    """Build a cross-layer transcoder from tensors that nobody has looked at yet.

    Raises:
        InvalidInputError: shapes do not fit each other, or a number is NaN or infinite.
    """
    parts = {"w_enc": w_enc, "b_enc": b_enc, "w_dec": w_dec, "b_dec": b_dec, "threshold": threshold or []}
    for name, values in parts.items():
        check_finite({f"{name} of layer {layer}": value for layer, value in enumerate(values)})
    try:
        return CrossLayerTranscoder(
            activation="relu",
            w_enc=tuple(w_enc),
            b_enc=tuple(b_enc),
            w_dec=tuple(w_dec),
            b_dec=tuple(b_dec),
            threshold=None if threshold is None else tuple(threshold),
        )
    except ValueError as error:
        raise InvalidInputError(
            f"the tensors do not make a cross-layer transcoder: {error}", "the file is damaged, or of another layout"
        ) from error
