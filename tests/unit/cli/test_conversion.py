"""`hagd transcoder convert`, from files of another tool to files for sharing, on a model that the files explain."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from hagd.cli.app import run
from hagd.dictionaries.dictionary import neurons_of
from hagd.dictionaries.formats import circuit_tracer
from hagd.dictionaries.formats.registry import read_folder
from hagd.models.architectures import convert
from unit.dictionaries.formats.layouts import by_layer
from unit.tasks.words import BOS, word_tokenizer, words_of

WORDS = words_of("the cat sat on a mat and saw the other cat that had once sat there")
LAYERS, D_MODEL, D_MLP = 2, 10, 17


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a model whose MLPs are relu, so that their own neurons are transcoders of other tools."""
    tokenizer = word_tokenizer(WORDS)
    config = GPT2Config(
        vocab_size=tokenizer.vocab_size,
        n_positions=13,
        n_embd=D_MODEL,
        n_layer=LAYERS,
        n_head=2,
        n_inner=D_MLP,
        activation_function="relu",
        bos_token_id=None,
        eos_token_id=None,
    )
    module = GPT2LMHeadModel(config).eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            noise = torch.randn(weight.shape, generator=draw)
            weight.copy_(4 + 0.3 * noise if "ln_2" in name and name.endswith("weight") else 0.5 * noise)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    module.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend, bos_token=BOS).save_pretrained(folder)
    return folder


@pytest.fixture
def source(model: Path, tmp_path: Path) -> Path:
    """Write the model's own neurons as circuit-tracer has its transcoders."""
    blocks = convert(GPT2LMHeadModel.from_pretrained(model).eval()).blocks
    folder = tmp_path / "source"
    folder.mkdir()
    circuit_tracer.write({layer: neurons_of(it.mlp, layer) for layer, it in enumerate(blocks)}, folder, "tiny")
    return folder


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(" ".join(WORDS * 5))
    return path


def answer(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, Any]:
    capsys.readouterr()
    code = run(["transcoder", "convert", *map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_transcoders_are_measured_and_written_for_the_hub_and_back(
    model: Path, source: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared, again = tmp_path / "shared", tmp_path / "again"
    code, told = answer(capsys, source, "--to", "hf", "--model", model, "--out", shared, "--probe-text", text)
    assert (code, told["kind"]) == (0, "transcoder-conversion")
    assert (told["data"]["format"], told["data"]["space"], told["data"]["model"]) == (
        "circuit-tracer",
        "mlp-input",
        "tiny",
    )
    assert [row["features"] for row in told["data"]["layers"]] == [D_MLP, D_MLP]
    assert all(row["fvu"] < 1e-6 for row in told["data"]["layers"])
    assert {path.name for path in shared.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    measured = json.loads((shared / "config.json").read_text())["metrics"]["layers"]
    assert [row["layer"] for row in measured] == [0, 1]

    assert answer(capsys, shared, "--to", "circuit-tracer", "--model", model, "--out", again)[0] == 0
    for layer, before in by_layer(read_folder(source)).items():
        after = by_layer(read_folder(again))[layer]
        assert all(torch.equal(getattr(before, it), getattr(after, it)) for it in ("w_enc", "b_enc", "w_dec", "b_dec"))


def test_a_person_reads_a_table_and_a_word_about_what_was_not_measured(
    model: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        run(["transcoder", "convert", str(source), "--to", "hf", "--model", str(model), "--out", str(tmp_path / "o")])
        == 0
    )
    out, err = capsys.readouterr()
    assert "circuit-tracer" in out and "layer" in out
    assert "--probe-text" in err


@pytest.mark.parametrize(
    ("extra", "code", "words"),
    [
        (["--space", "normalised", "--probe-text", "TEXT"], 2, "of the space mlp-input"),
        (["--space", "residual"], 2, "divides it by the length"),
        (["--from", "saelenz"], 2, "no format 'saelenz'"),
        (["--from", "saelens"], 2, "holds no transcoder"),
        (["--probe-text", "/nowhere"], 2, "the text cannot be read"),
        (["--out", "x" * 300], 2, "cannot be a path"),
    ],
)
def test_what_cannot_be_converted_leaves_nothing_behind(
    extra: list[str],
    code: int,
    words: str,
    model: Path,
    source: Path,
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    extra = [str(text) if it == "TEXT" else it for it in extra]
    out = tmp_path / "out"
    got, told = answer(capsys, source, "--to", "hf", "--model", model, "--out", out, *extra)
    assert got == code
    assert words in told["error"]["message"] + told["error"]["hint"]
    assert {path.name for path in tmp_path.iterdir()} == {"source", "text.txt"}


def test_another_name_is_refused_unless_it_is_said_to_be_the_same(
    model: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = (source / "config.yaml").read_text()
    (source / "config.yaml").write_text(config.replace("tiny", "google/gemma-2-2b"))
    arguments = [source, "--to", "hf", "--model", model, "--out", tmp_path / "out"]
    code, told = answer(capsys, *arguments)
    assert (code, told["error"]["kind"]) == (2, "invalid-input")
    assert "--any-name" in told["error"]["hint"]
    assert answer(capsys, *arguments, "--any-name")[0] == 0


def test_a_source_that_cannot_be_a_path_is_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = answer(capsys, "x" * 300, "--model", model, "--out", tmp_path / "out")
    assert (code, told["error"]["kind"]) == (2, "invalid-input")


def test_a_folder_with_something_in_it_is_not_written_over(
    model: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = answer(capsys, source, "--to", "hf", "--model", model, "--out", source)
    assert code == 2
    assert "is there already" in told["error"]["message"]
