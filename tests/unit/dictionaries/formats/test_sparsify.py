"""Transcoders of eai-sparsify, read from files of its layout."""

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

CONFIG: dict[str, Any] = {
    "activation": "topk",
    "expansion_factor": 32,
    "normalize_decoder": True,
    "num_latents": 11,
    "k": 3,
    "multi_topk": False,
    "skip_connection": False,
    "transcode": True,
    "d_in": D_MODEL,
}


def layout(folder: Path, seed: int = 0, *, skip: bool = False, **config: Any) -> Weights:
    w = weights(seed)
    more = {"W_skip": w.w_skip.T} if skip else {}
    named = {"encoder.weight": w.w_enc.T, "encoder.bias": w.b_enc, "W_dec": w.w_dec, "b_dec": w.b_dec}
    save(folder / "sae.safetensors", **named, **more)
    (folder / "cfg.json").write_text(json.dumps(CONFIG | {"skip_connection": skip} | config))
    return w


def expected(w: Weights, x: np.ndarray) -> np.ndarray:
    return decoded(w, largest(relu(pre(w, x)), 3))


def test_a_single_layer_with_a_skip_path(tmp_path: Path) -> None:
    w, x = layout(tmp_path / "layers.7.mlp", skip=True), inputs()
    dictionary = read_one(tmp_path / "layers.7.mlp")
    assert (dictionary.layer, dictionary.k, dictionary.ranked_by) == (7, 3, "activation")
    close(rebuilt(dictionary, x), expected(w, x) + x @ w.w_skip)


def test_several_layers_with_what_the_run_says_of_its_model(tmp_path: Path) -> None:
    drawn = {layer: layout(tmp_path / f"h.{layer}.mlp", layer) for layer in (10, 2)}
    (tmp_path / "config.json").write_text(json.dumps({"model": "EleutherAI/pythia-70m", "batch_size": 8}))
    found, x = read_folder(tmp_path), inputs()
    assert (found.source_format, found.space, found.base_model) == ("sparsify", "mlp-input", "EleutherAI/pythia-70m")
    assert list(found.content) == [2, 10]  # type: ignore[arg-type]
    for layer, dictionary in by_layer(found).items():
        close(rebuilt(dictionary, x), expected(drawn[layer], x))


def test_the_run_is_found_from_one_of_its_layers(tmp_path: Path) -> None:
    layout(tmp_path / "layers.0.mlp")
    (tmp_path / "config.json").write_text(json.dumps({"model": "EleutherAI/pythia-70m"}))
    assert read_folder(tmp_path / "layers.0.mlp").base_model == "EleutherAI/pythia-70m"


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        ("layers.1.mlp", {"transcode": False}, "is an autoencoder"),
        ("layers.1", {}, "not the folder of an MLP"),
        ("layers.1.attn", {}, "not the folder of an MLP"),
        ("layers.1.mlp", {"activation": "groupmax"}, "'groupmax' has no counterpart"),
        ("layers.1.mlp", {"signed": True}, "'signed topk' has no counterpart"),
        ("layers.1.mlp", {"k": 0}, "keeps 0 of 11"),
        ("layers.1.mlp", {"k": None}, "does not fit its layout"),
    ],
)
def test_what_is_no_transcoder_of_an_mlp_is_refused(
    name: str, config: dict[str, Any], words: str, tmp_path: Path
) -> None:
    layout(tmp_path / name, **config)
    with pytest.raises(InvalidInputError, match=words):
        read_folder(tmp_path)


def test_a_run_with_a_layer_twice_is_refused(tmp_path: Path) -> None:
    layout(tmp_path / "layers.1.mlp")
    layout(tmp_path / "best" / "layers.1.mlp")
    with pytest.raises(InvalidInputError, match="holds layer 1 twice"):
        read_folder(tmp_path)
