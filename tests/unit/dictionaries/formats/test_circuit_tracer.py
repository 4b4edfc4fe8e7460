"""Per-layer transcoders of circuit-tracer, read from files of its layout and written for it."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from hagd.dictionaries.dictionary import Dictionary
from hagd.dictionaries.formats import circuit_tracer
from hagd.dictionaries.formats.registry import read_folder
from hagd.errors import InvalidInputError
from unit.dictionaries.formats.layouts import (
    Weights,
    by_layer,
    close,
    decoded,
    inputs,
    largest,
    pre,
    rebuilt,
    relu,
    save,
    weights,
)

CONFIG: dict[str, Any] = {
    "model_name": "openai-community/gpt2",
    "model_kind": "transcoder_set",
    "feature_input_hook": "mlp.hook_in",
    "feature_output_hook": "hook_mlp_out",
    "scan": "somebody/transcoders",
}


def layout(folder: Path, *, skip: bool = False, threshold: bool = False, **config: Any) -> list[Weights]:
    """Write two layers as the tool does: encoder rows by feature, the skip path applied transposed."""
    drawn = [weights(layer) for layer in range(2)]
    for layer, w in enumerate(drawn):
        more = {"W_skip": w.w_skip.T} if skip else {}
        more |= {"activation_function.threshold": w.threshold} if threshold else {}
        path = folder / f"layer_{layer}.safetensors"
        save(path, W_enc=w.w_enc.T, b_enc=w.b_enc, W_dec=w.w_dec, b_dec=w.b_dec, **more)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG | config))
    return drawn


def test_relu_with_a_skip_path(tmp_path: Path) -> None:
    drawn, x = layout(tmp_path, skip=True), inputs()
    found = read_folder(tmp_path)
    assert (found.source_format, found.space, found.n_layers) == ("circuit-tracer", "mlp-input", 2)
    assert found.base_model == "openai-community/gpt2"
    for layer, w in enumerate(drawn):
        close(rebuilt(by_layer(found)[layer], x), decoded(w, relu(pre(w, x))) + x @ w.w_skip)


def test_thresholds_make_it_a_jump_relu(tmp_path: Path) -> None:
    drawn, x = layout(tmp_path, threshold=True), inputs()
    for layer, dictionary in by_layer(read_folder(tmp_path)).items():
        w = drawn[layer]
        close(rebuilt(dictionary, x), decoded(w, np.where(pre(w, x) > w.threshold, pre(w, x), 0)))


def test_top_k_compares_activations_whatever_their_decoders(tmp_path: Path) -> None:
    drawn, x = layout(tmp_path, activation="topk", k=3), inputs()
    w, dictionary = drawn[1], by_layer(read_folder(tmp_path))[1]
    expected = decoded(w, largest(relu(pre(w, x)), 3))
    close(rebuilt(dictionary, x), expected)
    assert np.abs(rebuilt(replace(dictionary, ranked_by="contribution"), x) - expected).max() > 0.1


def test_a_hook_before_the_norm_is_recorded(tmp_path: Path) -> None:
    layout(tmp_path, feature_input_hook="hook_resid_mid")
    assert read_folder(tmp_path).space == "residual"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"activation": "gelu"}, "'gelu' has no counterpart"),
        ({"activation": "topk"}, "gives no k"),
        ({"activation": "topk", "k": 12}, "keeps 12 of 11 features"),
        ({"activation": "topk", "k": "many"}, "does not fit its layout"),
        ({"activation": "jump_relu"}, "lacks the tensor 'activation_function.threshold'"),
        ({"feature_output_hook": "hook_resid_post"}, "expected what an MLP writes"),
        ({"feature_input_hook": "hook_resid_pre"}, "expected one of mlp.hook_in"),
        ({"transcoders": ["hf://a/b/c.npz"]}, "lists files elsewhere"),
    ],
)
def test_a_config_that_has_no_counterpart_is_refused(config: dict[str, Any], words: str, tmp_path: Path) -> None:
    layout(tmp_path, **config)
    with pytest.raises(InvalidInputError, match=words) as caught:
        read_folder(tmp_path)
    assert caught.value.hint


def test_negative_thresholds_are_refused_since_they_let_negative_values_through(tmp_path: Path) -> None:
    w = layout(tmp_path, threshold=True)[0]
    save(
        tmp_path / "layer_0.safetensors",
        **{"W_enc": w.w_enc.T, "b_enc": w.b_enc, "W_dec": w.w_dec, "b_dec": w.b_dec},
        **{"activation_function.threshold": -w.threshold},
    )
    with pytest.raises(InvalidInputError, match="layer 0 has negative thresholds"):
        read_folder(tmp_path)


def test_a_missing_layer_is_named(tmp_path: Path) -> None:
    layout(tmp_path)
    (tmp_path / "layer_0.safetensors").unlink()
    with pytest.raises(InvalidInputError, match=r"lacks layer_0\.safetensors"):
        read_folder(tmp_path)


def ours(**changes: Any) -> dict[int, Dictionary]:
    """Give two dictionaries of ours, by way of the tool's layout, which is tested above."""
    drawn = [weights(layer) for layer in range(2)]
    made: dict[int, Dictionary] = {}
    for layer, w in enumerate(drawn):
        parts = {name: torch.from_numpy(getattr(w, name)) for name in ("w_enc", "b_enc", "w_dec", "b_dec")}
        plain = Dictionary("transcoder", layer, "relu", None, None, None, **parts, w_skip=None)
        made[layer] = replace(plain, **changes)
    return made


def test_what_is_written_reads_back_bit_for_bit(tmp_path: Path) -> None:
    for number, changes in enumerate(({}, {"k": 3, "ranked_by": "activation"})):
        folder = tmp_path / str(number)
        folder.mkdir()
        originals = ours(**changes)
        circuit_tracer.write(originals, folder, "gpt2")
        found = read_folder(folder)
        assert (found.base_model, found.space) == ("gpt2", "mlp-input")
        for layer, original in originals.items():
            for field in fields(Dictionary):
                before, after = getattr(original, field.name), getattr(by_layer(found)[layer], field.name)
                assert torch.equal(before, after) if isinstance(before, torch.Tensor) else before == after, field.name


def test_skip_paths_and_thresholds_read_back_bit_for_bit(tmp_path: Path) -> None:
    w = weights(0)
    skip, threshold = torch.from_numpy(w.w_skip), torch.from_numpy(w.threshold)
    original = replace(ours()[0], w_skip=skip, threshold=threshold)
    circuit_tracer.write({0: original}, tmp_path, "gpt2")
    after = by_layer(read_folder(tmp_path))[0]
    assert after.w_skip is not None and torch.equal(after.w_skip, skip)
    assert after.threshold is not None and torch.equal(after.threshold, threshold)


def test_our_ranking_is_written_by_moving_the_norms_of_decoders_into_encoders(tmp_path: Path) -> None:
    originals, x = ours(k=3), inputs()
    circuit_tracer.write(originals, tmp_path, "gpt2")
    written = by_layer(read_folder(tmp_path))
    for layer, original in originals.items():
        assert written[layer].ranked_by == "activation"
        close(rebuilt(written[layer], x), rebuilt(original, x))


@pytest.mark.parametrize(
    ("dictionaries", "words"),
    [
        (lambda: {1: ours()[1]}, "needs every layer from 0 on"),
        (lambda: {0: ours()[0], 1: ours(k=3)[1]}, "one activation for all layers"),
        (lambda: {0: replace(ours()[0], activation="silu")}, "no transcoder dictionaries with silu"),
        (lambda: {0: replace(ours()[0], kind="gated", w_gate=ours()[0].w_enc)}, "no gated dictionaries"),
    ],
)
def test_what_the_tool_cannot_hold_is_refused(dictionaries: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=words):
        circuit_tracer.write(dictionaries(), tmp_path, "gpt2")
    assert list(tmp_path.iterdir()) == []
