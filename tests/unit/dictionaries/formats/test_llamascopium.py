"""Transcoders of llamascopium, read from files of its layout."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hagd.dictionaries.formats.registry import read_folder
from hagd.errors import InvalidInputError
from unit.dictionaries.formats.layouts import (
    D_MODEL,
    Weights,
    by_layer,
    close,
    decoded,
    inputs,
    largest,
    pre,
    read_one,
    rebuilt,
    relu,
    save,
    weights,
)

IN, OUT = "blocks.6.ln2.hook_normalized", "blocks.6.hook_mlp_out"
NORM_IN, NORM_OUT = 7.0, 0.5


def layout(folder: Path, **config: Any) -> Weights:
    w = weights(0)
    norms = {f"dataset_average_activation_norm.{IN}": NORM_IN, f"dataset_average_activation_norm.{OUT}": NORM_OUT}
    save(
        folder / "sae_weights.safetensors",
        W_E=w.w_enc,
        b_E=w.b_enc,
        W_D=w.w_dec,
        b_D=w.b_dec,
        **{"activation_function.log_jumprelu_threshold": np.log(w.threshold)},
        **{name: np.array(value, np.float32) for name, value in norms.items()},
    )
    content = {
        "sae_type": "sae",
        "d_model": D_MODEL,
        "expansion_factor": 2.2,
        "hook_point_in": IN,
        "hook_point_out": OUT,
        "use_glu_encoder": False,
        "use_decoder_bias": True,
        "act_fn": "relu",
        "norm_activation": "inference",
        "sparsity_include_decoder_norm": True,
        "top_k": 3,
    }
    (folder / "config.json").write_text(json.dumps(content | config))
    return w


def test_folded_weights_are_taken_as_they_are(tmp_path: Path) -> None:
    w, x = layout(tmp_path), inputs()
    found = read_folder(tmp_path)
    assert (found.source_format, found.space, list(by_layer(found))) == ("llamascopium", "hook-normalized", [6])
    close(rebuilt(by_layer(found)[6], x), decoded(w, relu(pre(w, x))))


def test_the_scale_of_the_data_is_folded_into_encoder_and_decoder(tmp_path: Path) -> None:
    w, x = layout(tmp_path, norm_activation="dataset-wise"), inputs()
    into, out = np.sqrt(D_MODEL) / NORM_IN, np.sqrt(D_MODEL) / NORM_OUT
    close(rebuilt(read_one(tmp_path), x), decoded(w, relu(pre(w, x * into))) / out)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("by_norm", [False, True])
def test_thresholds_and_top_k_look_at_the_activation_or_at_what_it_contributes(
    scaled: bool, by_norm: bool, tmp_path: Path
) -> None:
    mode = "dataset-wise" if scaled else "inference"
    into, out = (np.sqrt(D_MODEL) / NORM_IN, np.sqrt(D_MODEL) / NORM_OUT) if scaled else (1.0, 1.0)
    x = inputs()
    for kind in ("jumprelu", "topk"):
        w = layout(tmp_path / kind, act_fn=kind, sparsity_include_decoder_norm=by_norm, norm_activation=mode)
        plain = pre(w, (x * into).astype(np.float32))
        seen = plain * np.linalg.norm(w.w_dec, axis=1) if by_norm else plain
        kept = np.where(seen > w.threshold, plain, 0) if kind == "jumprelu" else largest(relu(plain), 3, relu(seen))
        close(rebuilt(read_one(tmp_path / kind), x), decoded(w, kept) / out)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"sae_type": "lorsa"}, "sae_type 'lorsa', expected 'sae'"),
        ({"act_fn": "batchtopk"}, "'batchtopk' has no counterpart"),
        ({"use_glu_encoder": True}, "'relu with use_glu_encoder' has no counterpart"),
        ({"norm_activation": "token-wise"}, "normalises activations token-wise"),
        ({"hook_point_in": OUT}, "it is an autoencoder"),
    ],
)
def test_what_has_no_counterpart_is_refused(config: dict[str, Any], words: str, tmp_path: Path) -> None:
    layout(tmp_path, **config)
    with pytest.raises(InvalidInputError, match=words):
        read_folder(tmp_path)
