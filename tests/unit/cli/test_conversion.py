"""`hagd transcoder convert`, from files of another tool to files for sharing, on a model that the files explain."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hagd.cli.app import run
from hagd.dictionaries.formats.registry import read_folder
from unit.dictionaries.formats.layouts import by_layer


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
    assert [row["features"] for row in told["data"]["layers"]] == [17, 17]
    assert all(row["fvu"] < 1e-6 for row in told["data"]["layers"])
    assert {path.name for path in shared.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    measured = json.loads((shared / "config.json").read_text())["metrics"]["layers"]
    assert [row["layer"] for row in measured] == [0, 1]

    assert answer(capsys, shared, "--to", "circuit-tracer", "--model", model, "--out", again)[0] == 0
    card = (again / "README.md").read_text()
    assert "library_name: circuit-tracer" in card and "base model: tiny" in card and "read from: hf" in card
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
