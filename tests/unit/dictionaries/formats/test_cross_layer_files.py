"""Cross-layer transcoders of circuit-tracer and CLT-Forge, read from files of their layouts, and what is written."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file

from hagd.dictionaries.cross_layer import CrossLayerTranscoder
from hagd.dictionaries.formats import circuit_tracer_clt, hugging_face
from hagd.dictionaries.formats.card import Belongings
from hagd.dictionaries.formats.registry import read_folder
from hagd.errors import InvalidInputError
from unit.dictionaries.formats.layouts import by_layer, close, largest, rebuilt, save

LAYERS, D_MODEL, D_FEATURE, TOKENS = 3, 5, 7, 11
PAIRS = [(source, target) for source in range(LAYERS) for target in range(source, LAYERS)]


def drawn(seed: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    shapes = {
        "w_enc": (LAYERS, D_MODEL, D_FEATURE),
        "b_enc": (LAYERS, D_FEATURE),
        "w_dec": (len(PAIRS), D_FEATURE, D_MODEL),
        "b_dec": (LAYERS, D_MODEL),
        "b_pairs": (len(PAIRS), D_MODEL),
        "threshold": (LAYERS, D_FEATURE),
        "x": (LAYERS, TOKENS, D_MODEL),
    }
    made = {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return made | {"threshold": np.abs(made["threshold"]) + np.float32(0.01)}


def active(w: dict[str, np.ndarray], scale: np.ndarray | None = None) -> np.ndarray:
    x = w["x"] if scale is None else w["x"] * scale[:, None, None]
    pre = np.einsum("ltd,ldf->ltf", x, w["w_enc"]) + w["b_enc"][:, None]
    return np.where(pre > w["threshold"][:, None], pre, 0)


def rebuilt_layers(content: object, x: np.ndarray) -> np.ndarray:
    assert isinstance(content, CrossLayerTranscoder)
    given = torch.from_numpy(x)
    features = [content.encode(layer, given[layer]) for layer in range(LAYERS)]
    return np.stack([content.decode(layer, features, given[layer]).numpy() for layer in range(LAYERS)])


def layout(folder: Path) -> dict[str, np.ndarray]:
    """Write the files of circuit-tracer: decoders of one source together, by feature first."""
    w = drawn()
    for layer in range(LAYERS):
        named = {"W_enc": w["w_enc"][layer].T, "b_enc": w["b_enc"][layer], "b_dec": w["b_dec"][layer]}
        named |= {"threshold": w["threshold"][layer]}
        save(folder / f"W_enc_{layer}.safetensors", **{f"{name}_{layer}": value for name, value in named.items()})
        own = np.stack([w["w_dec"][i] for i, (source, _) in enumerate(PAIRS) if source == layer], axis=1)
        save(folder / f"W_dec_{layer}.safetensors", **{f"W_dec_{layer}": own})
    config = {
        "model_name": "google/gemma-2-2b",
        "model_kind": "cross_layer_transcoder",
        "feature_input_hook": "hook_resid_mid",
        "feature_output_hook": "hook_mlp_out",
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return w


def test_circuit_tracer_sums_the_decoders_of_all_layers_up_to_the_target(tmp_path: Path) -> None:
    w = layout(tmp_path)
    found = read_folder(tmp_path)
    assert (found.source_format, found.space, found.n_layers) == ("circuit-tracer-clt", "residual", LAYERS)
    features = active(w)
    expected = np.repeat(w["b_dec"][:, None], TOKENS, axis=1)
    for i, (source, target) in enumerate(PAIRS):
        expected[target] += features[source] @ w["w_dec"][i]
    close(rebuilt_layers(found.content, w["x"]), expected)


def test_a_decoder_of_another_layer_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    layout(tmp_path)
    short = np.zeros((D_FEATURE, 1, D_MODEL), np.float32)
    save(tmp_path / "W_dec_1.safetensors", W_dec_1=short)
    with pytest.raises(InvalidInputError, match="w_dec of layer 1 has shape"):
        read_folder(tmp_path)
    (tmp_path / "W_dec_1.safetensors").unlink()
    with pytest.raises(InvalidInputError, match=r"lacks W_dec_1\.safetensors"):
        read_folder(tmp_path)


def forge(folder: Path, *, across: bool, shards: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Write the files of CLT-Forge, whole or the features dealt out to ranks."""
    w = drawn(1)
    into, out = np.float32([0.5, 2, 3]), np.float32([4, 0.25, 0.1])
    diagonal = [i for i, (source, target) in enumerate(PAIRS) if source == target]
    tensors = {
        "W_enc": w["w_enc"],
        "b_enc": w["b_enc"],
        "W_dec": w["w_dec"] if across else w["w_dec"][diagonal],
        "b_dec": w["b_pairs"] if across else w["b_dec"],
        "log_threshold": np.log(w["threshold"]),
        "estimated_norm_scaling_factor_in": into,
        "estimated_norm_scaling_factor_out": out,
        "feature_count": np.zeros((LAYERS, D_FEATURE), np.int64),
    }
    config: dict[str, Any] = {"model_name": "gpt2", "n_layers": LAYERS, "cross_layer_decoders": across}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "clt_cfg.json").write_text(json.dumps(config | {"feature_sharding": shards > 0}))
    if not shards:
        save(folder / "clt_weights.safetensors", **tensors)
        return w, into, out
    axes = {"W_enc": 2, "b_enc": 1, "W_dec": 1, "log_threshold": 1, "feature_count": 1}
    for rank, part in enumerate(np.array_split(np.arange(D_FEATURE), shards)):
        dealt = {name: np.take(it, part, axes[name]) if name in axes else it for name, it in tensors.items()}
        save(folder / f"rank{rank}_clt_weights.safetensors", **dealt)
    return w, into, out


@pytest.mark.parametrize("shards", [0, 2])
def test_clt_forge_scales_inputs_and_outputs_and_adds_up_the_biases_of_its_pairs(shards: int, tmp_path: Path) -> None:
    w, into, out = forge(tmp_path, across=True, shards=shards)
    found = read_folder(tmp_path)
    assert (found.source_format, found.space, found.base_model) == ("clt-forge", "hook-normalized", "gpt2")
    features = active(w, into)
    expected = np.zeros((LAYERS, TOKENS, D_MODEL), np.float32)
    for i, (source, target) in enumerate(PAIRS):
        expected[target] += (features[source] @ w["w_dec"][i] + w["b_pairs"][i]) / out[target]
    close(rebuilt_layers(found.content, w["x"]), expected)


def test_clt_forge_without_cross_layer_decoders_is_a_set_of_layers(tmp_path: Path) -> None:
    w, into, out = forge(tmp_path, across=False)
    features = active(w, into)
    for layer, dictionary in by_layer(read_folder(tmp_path)).items():
        own = w["w_dec"][PAIRS.index((layer, layer))]
        close(rebuilt(dictionary, w["x"][layer]), (features[layer] @ own + w["b_dec"][layer]) / out[layer])


def test_a_number_of_decoders_that_makes_no_triangle_is_refused(tmp_path: Path) -> None:
    forge(tmp_path, across=False)
    config = json.loads((tmp_path / "clt_cfg.json").read_text())
    (tmp_path / "clt_cfg.json").write_text(json.dumps(config | {"cross_layer_decoders": True}))
    with pytest.raises(InvalidInputError, match="3 decoders for 3 layers, expected 6"):
        read_folder(tmp_path)


def transcoder(**changes: Any) -> CrossLayerTranscoder:
    w = {name: torch.from_numpy(value) for name, value in drawn(2).items()}
    made = CrossLayerTranscoder(
        "relu",
        tuple(w["w_enc"]),
        tuple(w["b_enc"]),
        tuple(
            torch.stack([w["w_dec"][i] for i, (source, _) in enumerate(PAIRS) if source == layer])
            for layer in range(LAYERS)
        ),
        tuple(w["b_dec"]),
        threshold=tuple(w["threshold"]),
    )
    return replace(made, **changes)


def skips() -> tuple[torch.Tensor, ...]:
    return tuple(torch.randn(LAYERS, D_MODEL, D_MODEL, generator=torch.Generator().manual_seed(4)))


@pytest.mark.parametrize("changes", [{}, {"threshold": None}, {"w_skip": skips()}])
def test_circuit_tracer_computes_from_the_files_what_was_written(changes: dict[str, Any], tmp_path: Path) -> None:
    clt, x = transcoder(**changes), drawn(2)["x"]
    circuit_tracer_clt.write(clt, tmp_path, "gpt2")
    files = [
        {**load_file(tmp_path / f"W_enc_{layer}.safetensors"), **load_file(tmp_path / f"W_dec_{layer}.safetensors")}
        for layer in range(LAYERS)
    ]
    expected = np.zeros((LAYERS, TOKENS, D_MODEL), np.float32)
    for layer, it in enumerate(files):
        pre = x[layer] @ it[f"W_enc_{layer}"].T + it[f"b_enc_{layer}"]
        features = np.where(pre > it.get(f"threshold_{layer}", np.float32(0)), pre, 0)
        expected[layer:] += np.einsum("tf,fld->ltd", features, it[f"W_dec_{layer}"])
        expected[layer] += it[f"b_dec_{layer}"] + (x[layer] @ it[f"W_skip_{layer}"] if "w_skip" in changes else 0)
    close(rebuilt_layers(clt, x), expected)
    found = read_folder(tmp_path)
    assert (found.source_format, found.space, found.base_model) == ("circuit-tracer-clt", "mlp-input", "gpt2")
    close(rebuilt_layers(found.content, x), expected)


def test_a_top_k_across_layers_is_refused_by_circuit_tracer_and_kept_for_the_hub(tmp_path: Path) -> None:
    clt = transcoder(threshold=None, k=2)
    with pytest.raises(InvalidInputError, match="this one is TopK of 2"):
        circuit_tracer_clt.write(clt, tmp_path / "a", "gpt2")
    belongings = Belongings("gpt2", "0123abc", "d" * 64, "hagd-run")
    (tmp_path / "b").mkdir()
    hugging_face.write(clt, tmp_path / "b", belongings, {"layers": [{"layer": 1, "fvu": 0.125}]})
    found = read_folder(tmp_path / "b")
    assert (found.source_format, found.n_layers, found.digest) == ("hf", LAYERS, "d" * 64)
    assert isinstance(found.content, CrossLayerTranscoder)
    assert found.content.k == 2
    assert all(torch.equal(a, b) for a, b in zip(found.content.w_dec, clt.w_dec, strict=True))
    card = (tmp_path / "b" / "README.md").read_text()
    assert "# A cross-layer transcoder of the MLPs of gpt2" in card
    assert "| 1 | cross-layer | 2 largest by activation | 7 | 0.125 |" in card
    assert "all later ones" in card


def test_the_strongest_features_of_each_layer_are_kept() -> None:
    clt, x = transcoder(threshold=None, k=2), torch.from_numpy(drawn(2)["x"])
    for layer in range(LAYERS):
        everything = replace(clt, k=None).encode(layer, x[layer]).numpy()
        close(clt.encode(layer, x[layer]).numpy(), largest(everything, 2))
    with pytest.raises(ValueError, match="keeps 8 of 7 features"):
        transcoder(k=8)


def test_a_skip_path_of_some_layers_only_is_refused(tmp_path: Path) -> None:
    circuit_tracer_clt.write(transcoder(w_skip=skips()), tmp_path, "gpt2")
    tensors = load_file(tmp_path / "W_enc_1.safetensors")
    save(tmp_path / "W_enc_1.safetensors", **{name: it for name, it in tensors.items() if name != "W_skip_1"})
    with pytest.raises(InvalidInputError, match="have a W_skip and others none"):
        read_folder(tmp_path)
