"""The whole of it, for real and small: train, resolve, attribute, search, verify, show; then break it and go on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

HAGD = [sys.executable, "-c", "from hagd.cli.app import main; main()"]
SMALL = ["--task", "modular-addition", "--modulus", "23", "--threads", "1", "--set", "verification.draws=199"]
KEYS = {
    "verdict",
    "scope",
    "model",
    "circuit",
    "headline",
    "edges_only",
    "curve",
    "negative_controls",
    "random_control",
    "settings",
    "feature_mediated_share",
    "error_credit",
    "tost_p",
    "command",
}


def hagd(*arguments: str | Path, expect: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*HAGD, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode in expect, done.stderr[-2000:]
    return done


def blobs(folder: Path) -> dict[str, bytes]:
    files = (path for path in (folder / "store" / "blobs").rglob("*") if path.is_file())
    return {path.name: path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "modadd"
    hagd("extract", *SMALL, "--out", folder, expect=(0, 3))
    return folder


@pytest.fixture(scope="module")
def data(run: Path) -> dict[str, Any]:
    printed = json.loads(hagd("verify", run, "--json", expect=(0, 3)).stdout)
    assert printed["schema"] == "hagd.cli/v1"
    assert printed["kind"] == "verification"
    return printed["data"]


@pytest.mark.slow
def test_the_evidence_has_every_part_of_the_contract(data: dict[str, Any]) -> None:
    assert set(data) >= KEYS
    assert set(data["headline"]) >= {
        "behavioural_preservation",
        "chance",
        "ci95",
        "faithfulness",
        "kl_nats",
        "n",
        "seed",
    }
    assert set(data["circuit"]) >= {"nodes", "edges", "by_kind", "leaves", "description_length_bits"}
    assert {row["ablation"] for row in data["settings"]} >= {"mean", "zero"}


@pytest.mark.slow
def test_the_circuit_preserves_the_behaviour_where_random_circuits_do_not(data: dict[str, Any]) -> None:
    assert data["verdict"] == "verified"
    assert data["headline"]["behavioural_preservation"] >= 0.9
    assert data["random_control"]["matched"]["mean"] < data["headline"]["ci95"][0]
    assert data["random_control"]["matched"]["p"] <= 0.01


@pytest.mark.slow
def test_negative_controls_end_as_they_must(data: dict[str, Any]) -> None:
    assert len(data["negative_controls"]) >= 3
    for control in data["negative_controls"]:
        assert control["verdict"] == control["expected"], control


@pytest.mark.slow
def test_asking_again_computes_nothing_and_changes_nothing(run: Path) -> None:
    before = blobs(run)
    begin = time.monotonic()
    hagd("extract", *SMALL, "--out", run, expect=(0, 3))
    assert time.monotonic() - begin < 30
    assert blobs(run) == before


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bytes(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    command = [*HAGD, "extract", *SMALL, "--out", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("coarsening"):
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()
    second = hagd(*command[len(HAGD) :], expect=(0, 3))
    assert "already computed" in second.stderr
    assert blobs(folder) == blobs(run)


@pytest.mark.slow
def test_an_untrained_model_gives_no_claim(tmp_path: Path) -> None:
    folder = tmp_path / "untrained"
    hagd("extract", *SMALL, "--set", "subject.model.untrained=true", "--out", folder, expect=(3,))
    assert json.loads(hagd("verify", folder, "--json", expect=(3,)).stdout)["data"]["verdict"] == "no claim"


@pytest.mark.slow
def test_the_picture_and_the_text_come_from_the_same_run(run: Path, data: dict[str, Any]) -> None:
    hagd("show", run)
    page = next(run.glob("*.html")).read_text()
    assert "Content-Security-Policy" in page
    shown = json.loads(hagd("circuit", "show", run, "--json").stdout)
    assert shown["data"]["size"] == data["circuit"]["nodes"]
