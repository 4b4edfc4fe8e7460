"""`hagd transcoder train --data` on a tiny model, in a worker process as users run it, and all that it leaves."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import psutil
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from hagd.artifacts.document import Document
from hagd.cli.app import run
from hagd.errors import NotARunError
from hagd.execution.checkpoints import load_checkpoint
from hagd.extraction.opened import OpenRun
from hagd.pipeline.folder import RunFolder
from integration.command_line import CommandLine
from unit.tasks.words import word_tokenizer

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "then", "it", "ran"]
SET = ("corpus.context=16", "corpus-transcoder.n_features=24", "corpus-transcoder.k=4", "corpus-transcoder.batch=64")


@pytest.fixture
def hagd(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[CommandLine]:
    monkeypatch.chdir(tmp_path)
    tokenizer = word_tokenizer(WORDS)
    torch.manual_seed(0)
    shape = GPT2Config(
        vocab_size=tokenizer.vocab_size, n_positions=16, n_embd=12, n_layer=2, n_head=3, bos_token_id=0, eos_token_id=0
    )
    GPT2LMHeadModel(shape).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_text(tokenizer.to_json())
    generator = torch.Generator().manual_seed(1)
    (tmp_path / "text").mkdir()
    for number in range(9):
        drawn = torch.randint(len(WORDS), (70,), generator=generator).tolist()
        (tmp_path / "text" / f"{number}.txt").write_text(" ".join(WORDS[word] for word in drawn))
    return CommandLine(capsys)


def test_training_on_text_leaves_its_quality_curves_and_examples(hagd: CommandLine, tmp_path: Path) -> None:
    options = [option for text in SET for option in ("--set", text)]
    command = ["transcoder", "train", "--model", "model", "--data", "text", "--out", "x", "--tensorboard", "board"]
    assert run([*command, "--quiet", "--threads", "1", *options]) == 0
    report = ElementTree.parse(tmp_path / "x" / "training.svg")  # noqa: S314  # written by us
    assert len(report.findall(".//{http://www.w3.org/2000/svg}polyline")) == 10
    (board,) = (tmp_path / "board").iterdir()
    assert [path.name.startswith("events.out.tfevents") for path in board.iterdir()] == [True]
    found = hagd("transcoder", "eval", "x", "--json").data
    assert 0 < found["completeness"] <= 1
    assert 0 < found["error_credit"] < 1
    shown = hagd("transcoder", "eval", "x", "--layer", "1").out
    assert shown.startswith("share of tokens")
    assert "feature " in shown and "|" in shown
    assert hagd("transcoder", "train", "--tensorboard", "board", "--json").error["kind"] == "usage"


def test_what_the_paper_prints_is_trained_and_measured_and_taken_for_no_dictionaries(
    hagd: CommandLine, tmp_path: Path
) -> None:
    options = [
        "--set",
        "corpus.context=16",
        "--set",
        "paper-autoencoder.n_features=24",
        "--set",
        "paper-autoencoder.k=4",
    ]
    command = ["transcoder", "train", "--model", "model", "--data", "text", "--dictionary", "hagd-paper", "--out", "x"]
    assert run([*command, "--quiet", "--threads", "1", *options]) == 0
    assert (tmp_path / "x" / "training.svg").stat().st_size > 1000
    found = hagd("transcoder", "eval", "x", "--json").data
    assert [layer["kind"] for layer in found["layers"]] == ["hagd-paper"] * 2
    assert found["fvu_mean"] > 0
    assert found["kl_nats"] > 0
    assert "unpredicted_of_next" in hagd("transcoder", "eval", "x").out
    refused = hagd("transcoder", "convert", "x", "--model", "model", "--out", "y", "--json")
    assert refused.code == 2
    assert "replace no MLP" in refused.error["message"]
    assert not (tmp_path / "y").exists()


@pytest.mark.parametrize("killed", ["the whole process group", "the worker alone"])
def test_training_that_was_killed_goes_on_from_its_checkpoint_to_the_same_artifacts(
    hagd: CommandLine, tmp_path: Path, killed: str
) -> None:
    more = ["corpus-transcoder.tokens=40000", "corpus-transcoder.buffer=64", "corpus-transcoder.checkpoints=100"]
    options = [option for text in (*SET, *more) for option in ("--set", text)]
    command = ["transcoder", "train", "--model", "model", "--data", "text", "--threads", "1", "--quiet", *options]
    program = [sys.executable, "-c", "from hagd.cli.app import main; main()", *command, "--out", "killed"]
    with subprocess.Popen(program, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as driver:
        step, state = wait_for_checkpoint(tmp_path / "killed")
        if killed == "the worker alone":
            (worker,) = (it for it in psutil.Process(driver.pid).children() if it.memory_info().rss > 100 << 20)
            worker.kill()
            driver.communicate(timeout=300)
            assert driver.returncode == 0
        else:
            os.killpg(driver.pid, signal.SIGKILL)
            driver.wait(timeout=60)
            assert "dictionaries" not in OpenRun.open(tmp_path / "killed").state.outputs
            assert hagd(*command, "--out", "killed").code == 0
    assert hagd(*command, "--out", "whole").code == 0

    went_on, whole = OpenRun.open(tmp_path / "killed"), OpenRun.open(tmp_path / "whole")
    for role in ("model", "corpus", "dictionaries"):
        assert went_on.state.outputs[role] == whole.state.outputs[role]
    curves, expected = went_on.document("training"), whole.document("training")
    for name in ("tokens", "fvu", "l0", "dead_share"):
        assert np.array_equal(curves.tensors[name], expected.tensors[name])
    # The times until the checkpoint are those of the attempt that was killed, so nothing was begun anew.
    stretches = int(step // (state.tensors["history.steps"].max()))
    assert stretches > 2
    before = state.tensors["history.seconds"][: stretches - 1]
    assert np.array_equal(curves.tensors["seconds"][: stretches - 1, 0], before)


def wait_for_checkpoint(root: Path) -> tuple[int, Document]:
    """Give the first checkpoint of the training in a run folder that is some way on."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        time.sleep(0.01)
        with contextlib.suppress(NotARunError, FileNotFoundError):
            store = RunFolder.open(root).open_store(create=False)
            for key in store.list("checkpoints/"):
                found = load_checkpoint(store, key.split("/")[2])
                if found is not None and found[0] >= 50:
                    return found
    raise AssertionError("nothing was kept")


def test_dictionaries_in_a_folder_are_measured_on_text(hagd: CommandLine, tmp_path: Path) -> None:
    for number, kind in enumerate(("auto", "cross-layer")):
        options = [option for text in (*SET, f"corpus-transcoder.kind={kind}") for option in ("--set", text)]
        command = ["transcoder", "train", "--model", "model", "--data", "text", "--threads", "1", "--quiet"]
        assert hagd(*command, "--out", f"run{number}", *options).code == 0
        folder = f"folder{number}"
        assert hagd("transcoder", "convert", f"run{number}", "--model", "model", "--out", folder).code == 0

        measure = ["transcoder", "eval", folder, "--model", "model", "--data", "text", "--set", "corpus.context=16"]
        answer = hagd(*measure, "--threads", "1", "--out", f"measured{number}", "--json")
        assert answer.code == 0, answer.out + answer.err
        found = answer.data
        assert [layer["layer"] for layer in found["layers"]] == [0, 1]
        assert {"kl_nats_alone", "cross_entropy_alone", "fvu_linear", "l0", "dead_share"} < set(found["layers"][0])
        assert 0 < found["fvu_mean"] < 2 and found["n_documents"] > 1
        shown = hagd("transcoder", "eval", f"measured{number}", "--layer", "1").out
        assert shown.startswith("share of tokens")
    refused = hagd("transcoder", "eval", "run0", "--model", "model", "--data", "text", "--json")
    assert refused.error["kind"] == "usage" and "convert" in refused.error["hint"]
    assert hagd("transcoder", "eval", "run0", "--model", "model", "--json").error["kind"] == "usage"
    (tmp_path / "text" / "more.json").write_text("{}")
    assert "1 files are left out (1 .json)" in hagd(*measure, "--out", "measured1").err


def test_a_transcoder_across_layers_is_shared_with_circuit_tracer_and_traced(hagd: CommandLine, tmp_path: Path) -> None:
    options = [option for text in SET for option in ("--set", text)]
    command = ["transcoder", "train", "--dictionary", "cross-layer", "--model", "model", "--data", "text"]
    found = hagd(*command, "--out", "x", "--threads", "1", "--json", *options).data
    assert [layer["kind"] for layer in found["layers"]] == ["cross-layer"] * 2
    assert found["completeness"] > 0
    assert (tmp_path / "x" / "training.svg").exists()
    convert = ("transcoder", "convert", "x", "--model", "model", "--json")
    answer = hagd(*convert, "--to", "circuit-tracer", "--out", "shared")
    assert answer.code == 0, answer.err
    assert [layer["jumps"] for layer in answer.data["layers"]] == [True, True]
    card = (tmp_path / "shared" / "README.md").read_text()
    assert "library_name: circuit-tracer" in card and "cross-layer" in card
    assert hagd(*convert, "--out", "card").code == 0
    assert "cross-layer" in (tmp_path / "card" / "README.md").read_text()
    build = ("graph", "build", "--text", "the cat sat on a mat", "--model", "model", "--dictionaries", "shared")
    traced = hagd(*build, "--out", "traced", "--threads", "1", "--json")
    assert traced.code == 0, traced.err
    assert traced.data["features"] > 0
