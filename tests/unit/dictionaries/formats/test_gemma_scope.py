"""Both generations of Gemma Scope, read from files of their layouts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hagd.dictionaries.formats.registry import read_folder
from hagd.errors import InvalidInputError
from unit.dictionaries.formats.layouts import Weights, by_layer, close, decoded, inputs, pre, rebuilt, save, weights

RELEASE = "gemma-scope-2b-pt-transcoders"
CONFIG = {
    "hf_hook_point_in": "model.layers.3.pre_feedforward_layernorm.output",
    "hf_hook_point_out": "model.layers.3.post_feedforward_layernorm.output",
    "architecture": "jump_relu",
    "model_name": "google/gemma-3-1b-pt",
    "type": "transcoder",
    "width": 11,
}


def layout(folder: Path, seed: int = 0, **arrays: Any) -> Weights:
    w = weights(seed)
    folder.mkdir(parents=True)
    given = {"W_enc": w.w_enc, "b_enc": w.b_enc, "W_dec": w.w_dec, "b_dec": w.b_dec, "threshold": w.threshold}
    np.savez(folder / "params.npz", **(given | arrays))
    return w


def layout_2(folder: Path, seed: int = 0, *, skip: bool = False, **config: Any) -> Weights:
    w = weights(seed)
    more = {"affine_skip_connection": w.w_skip} if skip else {}
    named = {"w_enc": w.w_enc, "b_enc": w.b_enc, "w_dec": w.w_dec, "b_dec": w.b_dec, "threshold": w.threshold}
    save(folder / "params.safetensors", **named, **more)
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    return w


def jumping(w: Weights, x: np.ndarray) -> np.ndarray:
    return decoded(w, np.where(pre(w, x) > w.threshold, pre(w, x), 0))


def test_the_first_generation_reads_the_residual_without_gain_and_names_its_model_by_its_folder(tmp_path: Path) -> None:
    drawn = {n: layout(tmp_path / RELEASE / f"layer_{n}" / "width_16k" / "average_l0_5", n) for n in (12, 3)}
    found, x = read_folder(tmp_path / RELEASE), inputs()
    assert (found.source_format, found.space, found.base_model) == ("gemma-scope", "normalised", "google/gemma-2-2b")
    assert list(by_layer(found)) == [3, 12]
    for layer, dictionary in by_layer(found).items():
        close(rebuilt(dictionary, x), jumping(drawn[layer], x))


def test_one_folder_of_the_first_generation_takes_its_layer_from_the_folders_around_it(tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere" / "layer_9" / "width_16k" / "average_l0_5"
    layout(folder)
    found = read_folder(folder)
    assert (list(by_layer(found)), found.base_model) == ([9], None)


def test_a_layer_in_two_widths_is_refused(tmp_path: Path) -> None:
    for width in ("width_16k", "width_65k"):
        layout(tmp_path / "layer_1" / width / "average_l0_5")
    with pytest.raises(InvalidInputError, match="holds layer 1 twice"):
        read_folder(tmp_path)


def test_a_release_of_autoencoders_is_refused(tmp_path: Path) -> None:
    layout(tmp_path / "gemma-scope-2b-pt-res" / "layer_1")
    with pytest.raises(InvalidInputError, match="a release of autoencoders"):
        read_folder(tmp_path / "gemma-scope-2b-pt-res")


def test_arrays_of_objects_and_truncated_archives_are_refused(tmp_path: Path) -> None:
    layout(tmp_path / "a" / "layer_1", b_dec=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InvalidInputError, match=r"params\.npz is no npz file of numbers"):
        read_folder(tmp_path / "a")
    layout(tmp_path / "b" / "layer_1")
    whole = (tmp_path / "b" / "layer_1" / "params.npz").read_bytes()
    (tmp_path / "b" / "layer_1" / "params.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidInputError, match=r"params\.npz is no npz file of numbers") as caught:
        read_folder(tmp_path / "b")
    assert "truncated or damaged" in caught.value.hint


def test_the_second_generation_reads_the_input_of_the_mlp_and_may_skip(tmp_path: Path) -> None:
    w, x = layout_2(tmp_path / "layer_3_width_16k_l0_small_affine", skip=True), inputs()
    found = read_folder(tmp_path)
    assert (found.source_format, found.space, found.base_model) == (
        "gemma-scope-2",
        "mlp-input",
        "google/gemma-3-1b-pt",
    )
    close(rebuilt(by_layer(found)[3], x), jumping(w, x) + x @ w.w_skip)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"hf_hook_point_in": "model.layers.3.output"}, "not the two sides of one MLP"),
        ({"hf_hook_point_out": "model.layers.4.post_feedforward_layernorm.output"}, "not the two sides of one MLP"),
        ({"architecture": "batch_topk"}, "'batch_topk' has no counterpart"),
    ],
)
def test_other_files_of_the_second_generation_are_refused(config: dict[str, str], words: str, tmp_path: Path) -> None:
    layout_2(tmp_path / "layer_3", **config)
    with pytest.raises(InvalidInputError, match=words):
        read_folder(tmp_path)
