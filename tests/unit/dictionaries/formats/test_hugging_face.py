"""Our own layout for the hub: what it holds, and that it comes back as it was."""

import hashlib
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from hagd.dictionaries.dictionary import Dictionary
from hagd.dictionaries.formats import hugging_face
from hagd.dictionaries.formats.card import Belongings
from hagd.dictionaries.formats.registry import read_folder
from hagd.errors import InvalidInputError
from unit.dictionaries.formats.layouts import by_layer, weights

BELONGINGS = Belongings("openai-community/gpt2", "0123abc", "d" * 64, "sparsify")
METRICS: dict[str, Any] = {"layers": [{"layer": 0, "fvu": 0.125, "l0": 3.0}]}


def dictionaries() -> dict[int, Dictionary]:
    w = weights(0)
    parts = {name: torch.from_numpy(getattr(w, name)) for name in ("w_enc", "b_enc", "w_dec", "b_dec", "w_skip")}
    plain = Dictionary("transcoder", 0, "relu", 3, None, None, **parts, ranked_by="activation")
    gate, bias = torch.from_numpy(w.w_enc).flip(0), torch.from_numpy(w.b_enc).flip(0)
    gated = replace(plain, layer=2, kind="gated", activation="silu", w_gate=gate, b_gate=bias, ranked_by="contribution")
    return {0: plain, 2: gated, 3: replace(plain, layer=3, k=None, threshold=torch.from_numpy(w.threshold))}


def test_every_kind_of_dictionary_comes_back_bit_for_bit(tmp_path: Path) -> None:
    originals = dictionaries()
    hugging_face.write(originals, tmp_path, BELONGINGS, METRICS)
    found = read_folder(tmp_path)
    assert (found.source_format, found.space, found.base_model) == ("hf", "mlp-input", "openai-community/gpt2")
    assert (found.revision, found.digest) == ("0123abc", "d" * 64)
    for layer, original in originals.items():
        for field in fields(Dictionary):
            before, after = getattr(original, field.name), getattr(by_layer(found)[layer], field.name)
            assert torch.equal(before, after) if isinstance(before, torch.Tensor) else before == after, field.name


def test_config_and_card_say_what_the_weights_belong_to(tmp_path: Path) -> None:
    hugging_face.write(dictionaries(), tmp_path, BELONGINGS, METRICS)
    config = json.loads((tmp_path / "config.json").read_text())
    digest = hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    assert config["base_model"] == {"name": "openai-community/gpt2", "revision": "0123abc", "digest": "d" * 64}
    assert (config["weights_sha256"], config["source_format"], config["metrics"]) == (digest, "sparsify", METRICS)
    _, header, body = (tmp_path / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(header)["base_model"] == "openai-community/gpt2"
    assert all(
        part in body for part in (digest, "d" * 64, "0123abc", "| 0 | transcoder | 3 largest by activation | 11 |")
    )
    assert "| 0.125 | 3 |" in body


def test_a_model_from_a_folder_is_not_given_to_the_hub_as_a_link(tmp_path: Path) -> None:
    hugging_face.write(dictionaries(), tmp_path, replace(BELONGINGS, base_model="mine", revision=None), {})
    _, header, body = (tmp_path / "README.md").read_text().split("---\n", 2)
    assert "base_model" not in yaml.safe_load(header)
    assert "a local folder" in body


def test_weights_that_are_not_the_config_s_are_refused(tmp_path: Path) -> None:
    hugging_face.write(dictionaries(), tmp_path, BELONGINGS, METRICS)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {"0.b_dec": tensors["0.b_dec"] + 1}, tmp_path / "model.safetensors")
    with pytest.raises(InvalidInputError, match="does not match its digest"):
        read_folder(tmp_path)


def test_a_part_that_is_missing_is_named(tmp_path: Path) -> None:
    hugging_face.write(dictionaries(), tmp_path, BELONGINGS, METRICS)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["0.w_dec"]
    save_file(tensors, tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    config["weights_sha256"] = hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidInputError, match=r"0\.w_dec") as caught:
        read_folder(tmp_path)
    assert "fetch it again" in caught.value.hint
