"""Transcoders of SAELens, of both generations of its config, read from files of its layout."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hagd.dictionaries.formats.registry import read_folder
from hagd.errors import InvalidInputError
from unit.dictionaries.formats.layouts import (
    D_FEATURE,
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

METADATA: dict[str, Any] = {
    "sae_lens_version": "6.20.0",
    "model_name": "gpt2-small",
    "hook_name": "blocks.4.mlp.hook_in",
    "hook_name_out": "blocks.4.hook_mlp_out",
    "model_from_pretrained_kwargs": {},
}


def layout(folder: Path, architecture: str, *, metadata: Any = (), tensors: Any = (), **config: Any) -> Weights:
    w = weights(0)
    named = {"W_enc": w.w_enc, "b_enc": w.b_enc, "W_dec": w.w_dec, "b_dec": w.b_dec}
    named |= {"threshold": w.threshold} if "jumprelu" in architecture else {}
    named |= {"W_skip": w.w_skip.T} if "skip" in architecture else {}
    save(folder / "sae_weights.safetensors", **named, **dict(tensors))
    content = {
        "d_in": D_MODEL,
        "d_out": D_MODEL,
        "d_sae": D_FEATURE,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "architecture": architecture,
        "metadata": METADATA | dict(metadata),
    }
    (folder / "cfg.json").write_text(json.dumps(content | config))
    return w


def jumping(w: Weights, x: np.ndarray) -> np.ndarray:
    return np.where(pre(w, x) > w.threshold, pre(w, x), 0)


def test_every_architecture(tmp_path: Path) -> None:
    x = inputs()
    for architecture, expected in {
        "transcoder": lambda w: decoded(w, relu(pre(w, x))),
        "skip_transcoder": lambda w: decoded(w, relu(pre(w, x))) + x @ w.w_skip,
        "jumprelu_transcoder": lambda w: decoded(w, jumping(w, x)),
        "jumprelu_skip_transcoder": lambda w: decoded(w, jumping(w, x)) + x @ w.w_skip,
        "jumprelu": lambda w: decoded(w, jumping(w, x)),
        "standard": lambda w: decoded(w, relu(pre(w, x))),
    }.items():
        w = layout(tmp_path / architecture, architecture)
        found = read_folder(tmp_path / architecture)
        assert (found.source_format, found.space, found.base_model) == ("saelens", "mlp-input", "gpt2-small")
        close(rebuilt(by_layer(found)[4], x), expected(w))


def test_top_k_by_activation_or_by_activation_times_decoder_norm(tmp_path: Path) -> None:
    x = inputs()
    w = layout(tmp_path / "plain", "topk", k=3)
    active = relu(pre(w, x))
    close(rebuilt(read_one(tmp_path / "plain"), x), decoded(w, largest(active, 3)))
    w = layout(tmp_path / "rescaled", "topk", k=3, rescale_acts_by_decoder_norm=True)
    by_norm = largest(active, 3, active * np.linalg.norm(w.w_dec, axis=1))
    close(rebuilt(read_one(tmp_path / "rescaled"), x), decoded(w, by_norm))


def test_the_decoder_bias_that_is_taken_off_the_input_moves_into_the_encoder_bias(tmp_path: Path) -> None:
    w, x = layout(tmp_path, "standard", apply_b_dec_to_input=True), inputs()
    close(rebuilt(read_one(tmp_path), x), decoded(w, relu((x - w.b_dec) @ w.w_enc + w.b_enc)))


def test_a_scale_of_training_is_folded_where_the_file_gives_it(tmp_path: Path) -> None:
    settings = {"normalize_activations": "expected_average_only_in", "apply_b_dec_to_input": True}
    w, x = layout(tmp_path, "standard", **settings), inputs()
    with pytest.raises(InvalidInputError, match=r"no activation_scaler\.json says by what"):
        read_folder(tmp_path)
    (tmp_path / "activation_scaler.json").write_text('{"scaling_factor": 0.25}')
    expected = decoded(w, relu((0.25 * x - w.b_dec) @ w.w_enc + w.b_enc)) / 0.25
    close(rebuilt(read_one(tmp_path), x), expected)


def test_a_config_from_before_version_six(tmp_path: Path) -> None:
    w, x = layout(tmp_path, "standard"), inputs()
    old = {
        "d_in": D_MODEL,
        "d_sae": D_FEATURE,
        "model_name": "gpt2-small",
        "hook_point": "blocks.2.ln2.hook_normalized",
        "hook_name_out": "blocks.2.hook_mlp_out",
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": 3},
        "normalize_activations": "none",
    }
    (tmp_path / "cfg.json").write_text(json.dumps(old))
    found = read_folder(tmp_path)
    assert (found.space, found.base_model, list(by_layer(found))) == ("hook-normalized", "gpt2-small", [2])
    close(rebuilt(by_layer(found)[2], x), decoded(w, largest(relu((x - w.b_dec) @ w.w_enc + w.b_enc), 3)))


def test_a_model_with_the_gain_folded_away_gives_inputs_without_it(tmp_path: Path) -> None:
    layout(tmp_path, "transcoder", metadata={"model_from_pretrained_kwargs": {"fold_ln": True, "revision": "step9"}})
    found = read_folder(tmp_path)
    assert (found.space, found.revision) == ("normalised", "step9")


@pytest.mark.parametrize(
    ("architecture", "settings", "words"),
    [
        ("standard", {"metadata": {"hook_name_out": "blocks.4.mlp.hook_in"}}, "it is an autoencoder"),
        ("transcoder", {"metadata": {"hook_name": "blocks.4.attn.hook_z"}}, "expected one of"),
        ("gated", {}, "'gated' has no counterpart"),
        ("standard", {"activation_fn": "tanh-relu"}, "'tanh-relu' has no counterpart"),
        ("transcoder", {"normalize_activations": "layer_norm"}, "token by token"),
        ("transcoder", {"tensors": {"scaling_factor": np.full(D_FEATURE, 2, np.float32)}}, "was finetuned"),
        (
            "transcoder",
            {"metadata": {"model_from_pretrained_kwargs": {"center_writing_weights": True}}},
            "center_writing_weights",
        ),
        ("topk", {}, "keeps 0 of 11"),
    ],
)
def test_what_has_no_counterpart_is_refused(
    architecture: str, settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    layout(tmp_path, architecture, **settings)
    with pytest.raises(InvalidInputError, match=words):
        read_folder(tmp_path)


def test_layers_of_two_models_are_refused(tmp_path: Path) -> None:
    layout(tmp_path / "a", "transcoder")
    layout(tmp_path / "b", "transcoder", metadata={"model_name": "pythia-70m", "hook_name": "blocks.5.mlp.hook_in"})
    with pytest.raises(InvalidInputError, match="several models"):
        read_folder(tmp_path)
