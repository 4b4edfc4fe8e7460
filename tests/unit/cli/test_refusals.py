"""What a person may mistype: each is refused by its kind, with a hint, and never called a defect."""

import json
from pathlib import Path

import pytest

from hagd.cli.app import run

LONG = "x" * 300


@pytest.mark.parametrize(
    ("arguments", "code", "kind", "part"),
    [
        (["extract", "--task", "parity", "--seed", str(2**53)], 2, "invalid-input", "2^53 - 1"),
        (["extract", "--task", "parity", "--set", f"traversal.seed={10**23}"], 2, "invalid-input", "JSON"),
        (
            ["extract", "--task", "parity", "--set", "traversal.budgt=5"],
            2,
            "invalid-input",
            "traversal.budgt is no field",
        ),
        (["extract", "--task", "parity", "--set", "traversal.budget=0"], 2, "invalid-input", "traversal.budget"),
        (["extract", "--task", "parity", "--out", LONG], 2, "invalid-input", "cannot be a path"),
        (["extract", "--task", "ioi", "--model", ""], 2, "usage", "no name"),
        (["extract", "--prompts", "/dev/zero", "--model", "x"], 2, "invalid-input", "are no file"),
        (["verify", LONG], 2, "invalid-input", "cannot be a path"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else None,
)
def test_it_is_refused_with_its_kind_and_a_hint(
    arguments: list[str],
    code: int,
    kind: str,
    part: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run([*arguments, "--json"]) == code
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["kind"] == kind
    assert part in error["message"] + error["hint"]
    assert error["hint"]
    assert list(tmp_path.iterdir()) == []


def test_a_marker_that_is_no_file_is_no_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "r" / "hagd-run.json").mkdir(parents=True)
    assert run(["verify", str(tmp_path / "r"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "not-a-run"


def test_a_default_outside_of_every_table_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hagd.toml").write_text("extract = 5\n")
    monkeypatch.chdir(tmp_path)
    assert run(["run", "list", "--json"]) == 2
    assert "[extract]" in json.loads(capsys.readouterr().out)["error"]["hint"]


@pytest.mark.parametrize("stage", ["transcoder", "coarsening", "traversal", "verification"])
def test_the_fields_of_a_stage_are_listed_with_what_they_are_for(
    stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["stages", stage, "--json"]) == 0
    (described,) = json.loads(capsys.readouterr().out)["data"]
    assert "seed" in described["fields"]
    assert all(text for text in described["fields"].values())
    assert run(["stages", stage]) == 0
    assert f"--set {stage}.FIELD=VALUE" in capsys.readouterr().out
