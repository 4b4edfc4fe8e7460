"""`hagd transcoder pull|push`, and repositories in place of folders, as a person and a program meet them."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from hagd.cli.app import run
from hagd.dictionaries.formats.registry import read_folder
from hagd.extraction.prompt_plan import PromptSettings, build_prompt_plan
from hagd.extraction.settings import Settings
from hagd.pipeline.request import PlanEntry
from hub_server import WRITE, Hub, environment_of

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
REPOSITORY = "models/owner/name"
HAGD = str(Path(sys.executable).parent / "hagd")


def content_of(folder: Path) -> dict[str, bytes]:
    return {it.name: it.read_bytes() for it in folder.iterdir()}


def answer(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, Any]:
    capsys.readouterr()
    code = run(["transcoder", *map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_dictionaries_are_converted_pushed_and_pulled_and_say_where_they_came_from(
    hub: Hub, model: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    first = hub.add(REPOSITORY, content_of(source))
    monkeypatch.setenv("HF_TOKEN", WRITE)
    shared, back = tmp_path / "shared", tmp_path / "back"

    assert answer(capsys, "convert", "hub:owner/name", "--model", model, "--out", shared)[0] == 0
    code, pushed = answer(capsys, "push", shared, "owner/converted", "--private", "--message", "ours")
    assert (code, pushed["kind"], pushed["data"]["format"]) == (0, "transcoder-push", "hf")
    code, pulled = answer(capsys, "pull", "owner/converted", "--out", back)

    assert (code, pulled["kind"]) == (0, "transcoder-pull")
    assert pulled["data"] == {
        "repository": "owner/converted",
        "commit": pushed["data"]["commit"],
        "format": "hf",
        "files": 3,
        "bytes": sum(map(len, content_of(shared).values())),
        "folder": str(back),
    }
    assert f"owner/name at {first}" in (back / "README.md").read_text()
    assert json.loads((back / "config.json").read_text())["origin"] == f"owner/name at {first}"
    assert read_folder(back).source_format == "hf"


def test_what_is_written_for_circuit_tracer_is_pushed_with_its_card(
    hub: Hub, model: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setenv("HF_TOKEN", WRITE)
    shared, back = tmp_path / "shared", tmp_path / "back"

    assert answer(capsys, "convert", source, "--to", "circuit-tracer", "--model", model, "--out", shared)[0] == 0
    code, pushed = answer(capsys, "push", shared, "owner/traced")
    assert (code, pushed["data"]["format"], "README.md" in pushed["data"]["files"]) == (0, "circuit-tracer", True)
    assert answer(capsys, "pull", "owner/traced", "--out", back)[0] == 0

    assert (back / "README.md").read_text() == (shared / "README.md").read_text()


def test_the_graph_of_a_prompt_takes_a_repository_in_place_of_a_folder(hub: Hub, model: Path, source: Path) -> None:
    commit = hub.add(REPOSITORY, content_of(source))

    def plan_with(dictionaries: str) -> tuple[PlanEntry, ...]:
        return build_prompt_plan(Settings(model=str(model), dictionaries=dictionaries), PromptSettings("the cat"))

    plan = plan_with("hub:owner/name")

    folder = Path(plan[0].config["dictionaries"])
    assert commit in str(folder) and folder.is_absolute()
    assert plan == plan_with(f"hub:owner/name@{commit}")
    assert plan == plan_with(str(folder))


def test_a_person_reads_fields_and_what_is_fetched(
    hub: Hub, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commit = hub.add(REPOSITORY, content_of(source))

    assert run(["transcoder", "pull", "owner/name", "--revision", "main", "--out", str(tmp_path / "out")]) == 0

    out, err = capsys.readouterr()
    assert commit in out and "circuit-tracer" in out
    assert "fetching 3 files" in err


@pytest.mark.parametrize(
    ("arguments", "code", "kind"),
    [
        (["pull", "owner", "--out", "OUT"], 2, "unknown-name"),
        (["pull", "owner/other", "--out", "OUT"], 2, "unknown-name"),
        (["pull", "owner/name", "--revision", "v9", "--out", "OUT"], 2, "unknown-name"),
        (["pull", "owner/name", "--most-gib", "0", "--out", "OUT"], 2, "invalid-input"),
        (["push", "SOURCE", "owner/name"], 2, "invalid-input"),
        (["push", "/nowhere", "owner/name"], 2, "invalid-input"),
        (["convert", "hub:owner/other", "--model", "tiny", "--out", "OUT"], 2, "unknown-name"),
    ],
)
def test_what_is_refused_has_a_kind_and_leaves_nothing_behind(
    arguments: list[str],
    code: int,
    kind: str,
    hub: Hub,
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub.add(REPOSITORY, content_of(source))
    places = {"OUT": str(tmp_path / "out"), "SOURCE": str(source)}

    got, told = answer(capsys, *(places.get(it, it) for it in arguments))

    assert (got, told["error"]["kind"]) == (code, kind)
    assert {it.name for it in tmp_path.iterdir()} == {"source"}


def test_files_in_chunks_go_to_the_hub_and_come_back(hub: Hub, source: Path, tmp_path: Path) -> None:
    """Chunks are stored in a folder, by the library's own code for that."""
    pytest.importorskip("hf_xet")
    (source / "README.md").write_text("a card")
    held = {hashlib.sha256(it).hexdigest(): it for it in content_of(source).values()}
    hub.chunks, hub.arrives = tmp_path / "chunks", held.__getitem__
    hub.chunks.mkdir()
    environment = os.environ | environment_of(hub, tmp_path / "home") | {"HF_TOKEN": WRITE}
    for arguments in (["push", str(source), "owner/name"], ["pull", "owner/name", "--out", str(tmp_path / "out")]):
        command = [HAGD, "transcoder", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr

    got = content_of(tmp_path / "out")
    assert {name: it for name, it in got.items() if name != "hub.json"} == content_of(source)
    assert not [path for path in hub.fetched() if path.endswith(".safetensors")]
    assert not hub.uploads


def test_a_hub_that_does_not_answer_is_exit_code_4_and_shows_no_token(
    hub: Hub, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")

    assert run(["transcoder", "pull", "owner/name", "--out", str(tmp_path / "out")]) == 4

    out, err = capfd.readouterr()
    assert "the hub does not answer" in err and "hf_verysecret" not in out + err


def test_a_pull_that_is_killed_in_the_middle_leaves_no_folder_and_goes_on_with_what_is_missing(
    hub: Hub, source: Path, tmp_path: Path
) -> None:
    hub.add(REPOSITORY, content_of(source))
    hub.holds["layer_1.safetensors"] = threading.Event()
    out = tmp_path / "out"
    command = [HAGD, "transcoder", "pull", "owner/name", "--out", str(out), "--json"]
    environment = os.environ | environment_of(hub, tmp_path / "home")
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as killed:
        assert hub.halfway.wait(120)
        killed.send_signal(signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()

    hub.holds.pop("layer_1.safetensors").set()
    hub.requests.clear()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 0, done.stderr
    assert [path.rpartition("/")[2] for path in hub.fetched()] == ["layer_1.safetensors"]
    assert {name: it for name, it in content_of(out).items() if name != "hub.json"} == content_of(source)
    assert not list(tmp_path.glob(".partial-*"))
