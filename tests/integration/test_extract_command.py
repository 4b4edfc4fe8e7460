"""`hagd extract` over toy stages: from nothing to a verdict, again, and in every way that it can go wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from integration.command_line import CommandLine
from integration.toy_stages import PLACES, USE


def journal_of(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def with_journal(path: Path) -> list[str]:
    return [part for place in PLACES for part in ("--set", f'{place}.journal="{path}"')]


def test_one_command_goes_through_all_stages_to_a_verdict(hagd: CommandLine, workplace: Path) -> None:
    answer = hagd.extract("--out", "runs/x", "--json")
    assert answer.code == 0
    assert answer.data["run"]["status"] == "verified"
    assert [stage["stage_id"] for stage in answer.data["run"]["stages"]] == [f"toy-{place}" for place in PLACES]
    assert answer.data["verification"]["headline"]["behavioural_preservation"] == 0.975
    assert "runs/x" in answer.err
    for place in PLACES:
        assert f"toy-{place}" in answer.err


def test_asked_again_it_computes_nothing_and_answers_the_same(hagd: CommandLine, workplace: Path) -> None:
    journal = workplace / "journal"
    first = hagd.extract("--out", "x", "--json", *with_journal(journal))
    done = journal_of(journal)
    second = hagd.extract("--out", "x", "--json", *with_journal(journal))
    assert done == list(PLACES)
    assert journal_of(journal) == done
    assert second.data["verification"] == first.data["verification"]
    assert second.code == 0


def test_other_settings_in_the_same_folder_are_refused_and_lose_nothing(hagd: CommandLine, workplace: Path) -> None:
    hagd.extract("--out", "x")
    refused = hagd.extract("--out", "x", "--seed", "1", "--json")
    assert refused.code == 1
    assert refused.error["kind"] == "run-conflict"
    assert "another" in refused.error["hint"]
    assert hagd("verify", "x", "--json").code == 0


def test_without_out_the_settings_name_the_folder(hagd: CommandLine, workplace: Path) -> None:
    first = hagd.extract("--json").data["folder"]
    other = hagd.extract("--json", "--seed", "1").data["folder"]
    again = hagd.extract("--json").data["folder"]
    assert first.startswith("runs/modular-addition-")
    assert first == again != other


@pytest.mark.parametrize(("verdict", "code"), [("verified", 0), ("refuted", 3), ("no claim", 3)])
def test_the_exit_code_tells_the_verdict(hagd: CommandLine, workplace: Path, verdict: str, code: int) -> None:
    answer = hagd.extract("--out", "x", "--set", f"verification.verdict={verdict}")
    assert answer.code == code
    assert hagd("verify", "x").code == code
    assert verdict in answer.out


def test_a_stage_that_fails_gives_its_own_error_and_keeps_what_was_done(hagd: CommandLine, workplace: Path) -> None:
    journal = workplace / "journal"
    settings = ["--out", "x", "--json", "--set", "coarsening.fail=true", *with_journal(journal)]
    failed = hagd.extract(*settings)
    assert failed.code == 1
    assert failed.error["kind"] == "accuracy-gate"
    assert failed.error["message"] == "the model knows 3 of 7"
    assert failed.error["hint"] == "train it longer"
    hagd.extract(*settings)
    assert journal_of(journal) == ["subject", "transcoder", "coarsening", "coarsening"]
    early = hagd("verify", "x", "--json")
    assert early.error["kind"] == "run"
    assert "3 of 7" in early.error["message"]


def test_a_dry_run_prints_the_plan_and_touches_nothing(hagd: CommandLine, workplace: Path) -> None:
    answer = hagd.extract("--out", "x", "--dry-run", "--json", "--budget", "1009")
    assert answer.code == 0
    plan = answer.data["plan"]
    assert [entry["stage_id"] for entry in plan] == [f"toy-{place}" for place in PLACES]
    assert plan[0]["config"]["task"] == {"name": "modular-addition", "modulus": 7}
    assert plan[3]["config"]["budget"] == 1009
    assert not (workplace / "x").exists()
    hagd.extract("--out", "x", "--budget", "1009")
    later = hagd(
        "estimate", "--task", "modular-addition", "--modulus", "7", "--budget", "1009", *USE, "--out", "x", "--json"
    )
    assert [entry["estimate"]["cached"] for entry in later.data["plan"]] == [True] * 5


def test_a_flag_goes_before_the_environment_and_that_before_the_file(
    hagd: CommandLine, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seed_and_budget(*arguments: str) -> tuple[int, int]:
        plan = hagd.extract("--dry-run", "--json", *arguments).data["plan"]
        return plan[0]["config"]["seed"], plan[3]["config"]["budget"]

    (workplace / "hagd.toml").write_text("[extract]\nseed = 3\nbudget = 1009\n")
    assert seed_and_budget() == (3, 1009)
    monkeypatch.setenv("HAGD_EXTRACT_SEED", "5")
    assert seed_and_budget() == (5, 1009)
    assert seed_and_budget("--seed", "7") == (7, 1009)
    (workplace / "hagd.toml").write_text("[extract")
    assert hagd.extract("--dry-run", "--json").error["kind"] == "invalid-input"


def test_runs_that_share_a_store_find_each_others_work(
    hagd: CommandLine, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAGD_STORE", "shared")
    hagd.extract("--out", "x")
    second = hagd.extract("--out", "y", "--json")

    assert [stage["status"] for stage in second.data["run"]["stages"]] == ["cached"] * 5
    assert (workplace / "shared" / "blobs").is_dir()
    assert not list(workplace.glob("*/store"))
    monkeypatch.delenv("HAGD_STORE")
    assert hagd("verify", "y").code == hagd("run", "resume", "y").code == hagd.extract("--out", "y").code == 0


def test_a_store_that_is_named_goes_before_that_of_the_environment_and_stays(
    hagd: CommandLine, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAGD_STORE", "theirs")
    assert hagd.extract("--out", "x", "--store", "mine").code == 0
    assert (workplace / "mine" / "blobs").is_dir()
    assert not (workplace / "theirs").exists()

    refused = hagd.extract("--out", "x", "--json")
    assert refused.error["kind"] == "invalid-input"
    assert "HAGD_STORE" in refused.error["hint"]


BAD = {
    "no task": ([], "usage", 2, "--task"),
    "unknown task": (["--task", "chess"], "unknown-name", 2, "modular-addition"),
    "task that needs a model": (["--task", "ioi"], "usage", 2, "--model"),
    "prompts without a model": (["--prompts", "pairs.jsonl"], "usage", 2, "--model"),
    "prompts that are not there": (["--prompts", "no.jsonl", "--model", "m"], "invalid-input", 2, "path"),
    "budget 0": (["--task", "parity", "--budget", "0"], "invalid-input", 2, "positive"),
    "negative size": (["--task", "parity", "--sizes", "49,-1"], "invalid-input", 2, "49,100"),
    "sizes that are no numbers": (["--task", "parity", "--sizes", "many"], "usage", 2, "49,70"),
    "draws 0": (["--task", "parity", "--draws", "0"], "invalid-input", 2, "positive"),
    "threshold 1": (["--task", "parity", "--threshold", "1"], "invalid-input", 2, "0.9"),
    "unknown dictionary": (["--task", "parity", "--dictionary", "sae"], "usage", 2, "neurons"),
    "unknown stage set": (["--task", "parity", "--set", "magic.x=1"], "usage", 2, "traversal"),
    "unknown stage used": (["--task", "parity", "--use", "subject=nobody"], "unknown-name", 2, "installed"),
    "modulus of another task": (["--task", "parity", "--modulus", "7"], "usage", 2, "--modulus"),
    "unknown option": (["--nonsense"], "usage", 2, "--help"),
    "field that a stage refuses": (["--task", "parity", "--set", "subject.refused=1"], "invalid-input", 2, "leave"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_a_clear_error_before_anything_is_written(hagd: CommandLine, workplace: Path, case: str) -> None:
    arguments, kind, code, hint = BAD[case]
    (workplace / "pairs.jsonl").write_text("{}\n")
    answer = hagd("extract", *USE, *arguments, "--out", "x", "--json")
    assert (answer.error["kind"], answer.code) == (kind, code)
    assert hint in answer.error["hint"]
    assert answer.error["docs"].endswith(f"#{kind}")
    assert not (workplace / "x").exists()
    told = hagd("extract", *USE, *arguments, "--out", "x")
    assert told.out == ""
    assert f"error ({kind}): " in told.err
    assert "hint: " in told.err


def foreign(folder: Path) -> None:
    (folder / "thesis.tex").write_text("years of work")


def other_version(folder: Path) -> None:
    (folder / "hagd-run.json").write_text('{"schema": "hagd.run/v7", "store": "store"}')


def half_written(folder: Path) -> None:
    (folder / "hagd-run.json").write_text('{"schema": "hag')


@pytest.mark.parametrize("spoil", [foreign, other_version, half_written])
def test_a_folder_that_is_no_run_of_ours_is_refused_and_left_alone(hagd: CommandLine, workplace: Path, spoil) -> None:
    folder = workplace / "x"
    folder.mkdir()
    spoil(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    answer = hagd.extract("--out", "x", "--json")
    assert (answer.error["kind"], answer.code) == ("not-a-run", 1)
    assert answer.error["hint"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert hagd("verify", "x", "--json").error["kind"] == "not-a-run"


def start_extract(*arguments: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", "from hagd.cli.app import main; main()", "extract", *USE, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for(journal: Path, line: str) -> None:
    end = time.monotonic() + 60
    while line not in journal_of(journal):
        assert time.monotonic() < end, f"{line} was not reached"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_in_the_middle_it_goes_on_where_it_was(
    hagd: CommandLine, workplace: Path, number: signal.Signals
) -> None:
    journal = workplace / "journal"
    settings = ["--task", "parity", "--out", "x", "--set", "coarsening.pause_seconds=8", *with_journal(journal)]
    process = start_extract(*settings)
    try:
        wait_for(journal, "coarsening")
        locked = hagd("run", "resume", "x", "--json")
        assert (locked.error["kind"], locked.code) == ("run-locked", 1)
        assert str(process.pid) in locked.error["message"]
        assert hagd("run", "status", "x", "--json").data["status"] == "running"
    finally:
        os.kill(process.pid, number)
        _out, err = process.communicate(timeout=60)
    if number != signal.SIGKILL:
        assert process.returncode == 130
        assert b"same command" in err
    assert hagd("run", "status", "x", "--json").data["status"] == "interrupted"
    quick = [part.replace("pause_seconds=8", "pause_seconds=0") for part in settings]
    assert hagd("extract", *USE, *quick).code == 0
    assert journal_of(journal) == ["subject", "transcoder", "coarsening", *PLACES[2:]]


def test_stdout_holds_nothing_but_json_when_json_is_asked_for(workplace: Path) -> None:
    process = start_extract("--task", "parity", "--out", "x", "--json")
    out, err = process.communicate(timeout=60)
    assert json.loads(out)["kind"] == "extraction"
    assert process.returncode == 0
    assert b"toy-subject" in err
