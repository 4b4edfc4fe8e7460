"""Which format a folder is of, whether it belongs to a model, and what nobody should open."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hagd.dictionaries.cross_layer import CrossLayerTranscoder
from hagd.dictionaries.formats.files import LARGEST_CONFIG_BYTES, Folder
from hagd.dictionaries.formats.found import Found
from hagd.dictionaries.formats.registry import FORMATS, check_belongs, detect, read_folder
from hagd.errors import InvalidInputError, UnknownNameError
from hagd.models.architectures import convert
from hagd.models.loading import LoadedModel
from unit.dictionaries.formats import test_circuit_tracer, test_saelens, test_sparsify
from unit.dictionaries.formats.layouts import by_layer, weights
from unit.models.tiny_models import tiny_gpt2

D_MODEL = 35
"""Of the tiny model."""


def test_a_folder_of_no_format_is_refused_and_its_pickles_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="none of the formats hf, circuit-tracer") as caught:
        read_folder(tmp_path)
    assert caught.value.hint
    (tmp_path / "weights.pt").write_bytes(b"")
    with pytest.raises(InvalidInputError, match=r"pickles \(weights\.pt\), which can run code"):
        read_folder(tmp_path)


def test_a_missing_folder_and_an_unknown_format_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="is no folder"):
        read_folder(tmp_path / "absent")
    with pytest.raises(UnknownNameError, match="no format 'sae'") as caught:
        read_folder(tmp_path, "sae")
    assert "saelens" in caught.value.hint


def test_a_folder_of_two_formats_is_read_in_the_one_that_is_named(tmp_path: Path) -> None:
    test_circuit_tracer.layout(tmp_path)
    test_sparsify.layout(tmp_path / "layers.1.mlp")
    with pytest.raises(InvalidInputError, match="formats circuit-tracer, sparsify") as caught:
        read_folder(tmp_path)
    assert "--from" in caught.value.hint
    assert read_folder(tmp_path, "sparsify").source_format == "sparsify"


def test_each_format_is_told_by_itself(tmp_path: Path) -> None:
    test_circuit_tracer.layout(tmp_path / "a")
    test_sparsify.layout(tmp_path / "b" / "layers.1.mlp")
    test_saelens.layout(tmp_path / "c", "transcoder")
    assert [detect(Folder(tmp_path / name)) for name in "abc"] == ["circuit-tracer", "sparsify", "saelens"]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def spoil(path: Path, value: float) -> None:
    w = weights(0)
    named = {"encoder.weight": w.w_enc.T, "encoder.bias": w.b_enc, "W_dec": w.w_dec, "b_dec": w.b_dec}
    named["W_dec"] = np.where(np.arange(11)[:, None] == 3, np.float32(value), w.w_dec)
    test_circuit_tracer.save(path, **named)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncate, r"sae\.safetensors is no safetensors file"),
        (lambda path: path.write_bytes(b"\0" * 64), r"sae\.safetensors is no safetensors file"),
        (lambda path: spoil(path, float("nan")), "holds NaN or infinity"),
        (lambda path: spoil(path, float("inf")), "holds NaN or infinity"),
        (lambda path: test_circuit_tracer.save(path, W_dec=np.zeros((11, 5), np.float32)), "lacks the tensor"),
        (
            lambda path: test_circuit_tracer.save(
                path,
                **{name: np.zeros(3, np.float32) for name in ("encoder.weight", "encoder.bias", "W_dec", "b_dec")},
            ),
            "does not fit its layout",
        ),
        (lambda path: (path.parent / "cfg.json").write_text("{"), r"cfg\.json is not JSON"),
        (lambda path: (path.parent / "cfg.json").write_text("[1]"), "holds no table of settings"),
        (lambda path: (path.parent / "cfg.json").write_bytes(b"\xff"), r"cfg\.json cannot be read"),
        (lambda path: (path.parent / "cfg.json").write_text(" " * (LARGEST_CONFIG_BYTES + 1)), "more than any config"),
    ],
)
def test_a_damaged_file_is_refused_by_its_name(damage: Callable[[Path], Any], words: str, tmp_path: Path) -> None:
    test_sparsify.layout(tmp_path / "layers.1.mlp")
    damage(tmp_path / "layers.1.mlp" / "sae.safetensors")
    with pytest.raises(InvalidInputError, match=words) as caught:
        read_folder(tmp_path)
    assert caught.value.hint


def pickled(folder: Path, content: object) -> None:
    test_saelens.layout(folder, "transcoder")
    (folder / "sae_weights.safetensors").unlink()
    torch.save(content, folder / "sae_weights.pt")


def test_a_pickle_is_opened_for_its_tensors_alone_and_only_when_asked(tmp_path: Path) -> None:
    w = weights(0)
    tensors = {"W_enc": w.w_enc, "b_enc": w.b_enc, "W_dec": w.w_dec, "b_dec": w.b_dec}
    pickled(tmp_path, {name: torch.from_numpy(value) for name, value in tensors.items()})
    with pytest.raises(InvalidInputError, match=r"sae_weights\.pt, a pickle, which can run code") as caught:
        read_folder(tmp_path)
    assert "--unsafe-pickle" in caught.value.hint
    assert np.array_equal(by_layer(read_folder(tmp_path, pickles=True))[4].w_enc.numpy(), w.w_enc)


class Attack:
    """What would touch a file if its pickle were trusted."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


def test_a_pickle_that_runs_code_is_refused_even_when_asked(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    pickled(tmp_path / "a", {"W_enc": Attack(touched)})
    function, arguments = Attack(tmp_path / "works").__reduce__()
    function(*arguments)
    assert (tmp_path / "works").exists()
    with pytest.raises(InvalidInputError, match="holds more than tensors"):
        read_folder(tmp_path / "a", pickles=True)
    assert not touched.exists()


def test_a_pickle_of_something_else_is_refused(tmp_path: Path) -> None:
    pickled(tmp_path, [1, 2])
    with pytest.raises(InvalidInputError, match="no table of tensors"):
        read_folder(tmp_path, pickles=True)


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return LoadedModel(convert(tiny_gpt2()), None, "d" * 64, "none", False, "openai-community/gpt2", "abc")


def found(*layers: int, width: int = D_MODEL, **changes: Any) -> Found:
    parts = {name: torch.from_numpy(getattr(weights(0, width), name)) for name in ("w_enc", "b_enc", "w_dec", "b_dec")}
    one = test_circuit_tracer.ours()[0]
    return Found("x", {layer: replace(one, layer=layer, **parts) for layer in layers}, "mlp-input", **changes)


@pytest.mark.parametrize(
    ("it", "words"),
    [
        (lambda: found(0, width=5), "have width 5, openai-community/gpt2 has 35"),
        (lambda: found(0, 3), "are of 4 layers, openai-community/gpt2 has 3"),
        (lambda: found(0, 1, n_layers=2), "are of 2 layers, openai-community/gpt2 has 3"),
        (lambda: found(0, base_model="pythia-70m"), "names 'pythia-70m' as its model"),
        (lambda: found(0, base_model="gpt2-medium"), "names 'gpt2-medium' as its model"),
        (lambda: found(0, revision="abd"), "names revision 'abd'"),
        (lambda: found(0, digest="e" * 64), "weights of digest eeeeeeeeeeee"),
    ],
)
def test_transcoders_of_another_model_are_refused(it: Callable[[], Found], words: str, loaded: LoadedModel) -> None:
    with pytest.raises(InvalidInputError, match=words) as caught:
        check_belongs(it(), loaded)
    assert caught.value.hint


def test_a_cross_layer_transcoder_of_another_model_is_refused(loaded: LoadedModel) -> None:
    ones = torch.ones
    clt = CrossLayerTranscoder("relu", (ones(35, 2),), (ones(2),), (ones(1, 2, 35),), (ones(35),))
    with pytest.raises(InvalidInputError, match="are of 1 layers"):
        check_belongs(Found("x", clt, "residual", n_layers=1), loaded)


@pytest.mark.parametrize("name", [None, "gpt2", "gpt2-small", "OpenAI-community/GPT2"])
def test_a_model_is_known_by_the_names_that_tools_give_it(name: str | None, loaded: LoadedModel) -> None:
    check_belongs(found(0, 1, 2, base_model=name, n_layers=3, revision="abc", digest=None), loaded)


def test_names_may_be_set_aside_and_a_digest_settles_them(loaded: LoadedModel) -> None:
    check_belongs(found(0, base_model="mine", revision="other"), loaded, any_name=True)
    check_belongs(found(0, base_model="mine", digest="d" * 64), loaded)


def test_every_format_is_listed_once() -> None:
    assert set(FORMATS) == {
        "hf",
        "circuit-tracer",
        "circuit-tracer-clt",
        "gemma-scope",
        "gemma-scope-2",
        "saelens",
        "sparsify",
        "llamascopium",
        "clt-forge",
    }


def test_settings_of_wrong_types_are_no_defects(tmp_path: Path) -> None:
    test_saelens.layout(tmp_path, "transcoder", metadata={"model_from_pretrained_kwargs": [1]})
    with pytest.raises(InvalidInputError, match="does not fit its layout"):
        read_folder(tmp_path)
    (tmp_path / "cfg.json").write_text(json.dumps({"architecture": "topk", "activation_fn": "topk", "k": {}}))
    with pytest.raises(InvalidInputError):
        read_folder(tmp_path)
