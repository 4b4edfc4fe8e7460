"""Commands of an operator: in a folder that is named, or in the place that the services are set to."""

from pathlib import Path

import pytest

from hagd.pipeline.control import StageControl
from hagd.pipeline.folder import RunFolder
from hagd.pipeline.request import Request
from hagd.pipeline.submission import create_run
from integration.command_line import CommandLine


@pytest.fixture
def finished(hagd: CommandLine, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder with a run that has ended, which services are set to work in."""
    assert hagd.extract("--out", "services", "--json").code == 0
    monkeypatch.setenv("HAGD_ROOT", str(Path("services").absolute()))
    return Path("services").absolute()


def test_without_a_folder_and_without_settings_the_hint_says_what_to_set(hagd: CommandLine) -> None:
    for command in (["dlq", "list"], ["store", "usage"], ["run", "list", "--deployed"], ["admin", "stage", "list"]):
        answer = hagd(*command, "--json")
        assert (answer.code, answer.error["kind"]) == (2, "usage"), command
        assert "HAGD_STORE" in answer.error["hint"]


def test_runs_of_the_services_are_listed_shown_opened_again_cancelled_and_deleted(
    hagd: CommandLine, finished: Path
) -> None:
    (row,) = hagd("run", "list", "--deployed", "--json").data
    run_id = row["run_id"]
    assert (row["status"], row["folder"]) == ("verified", str(finished))
    assert hagd("run", "status", run_id[:8], "--deployed", "--json").data["status"] == "verified"
    assert hagd("run", "list", "--deployed", "--stalled", "--json").data == []
    again = hagd("run", "resume", run_id[:8], "--deployed", "--json").data
    assert (again["generation"], again["status"]) == (1, "interrupted")
    refused = hagd("run", "resume", run_id[:8], "--deployed", "--json")
    assert "has not ended" in refused.error["message"]
    assert hagd("run", "delete", run_id[:8], "--deployed", "--json").error["message"].endswith("has not ended")
    assert hagd("run", "cancel", run_id[:8], "--deployed", "--json").data["cancel_requested"]


def test_an_ended_run_is_deleted_and_what_it_needed_collected(hagd: CommandLine, finished: Path) -> None:
    (row,) = hagd("run", "list", "--deployed", "--json").data
    assert hagd("run", "delete", row["run_id"][:8], "--deployed", "--json").data == {"run_id": row["run_id"]}
    assert hagd("run", "list", "--deployed", "--json").data == []
    assert hagd("store", "gc", "--json").data["manifests"] > 0
    assert hagd("store", "usage", str(finished), "--json").data == hagd("store", "usage", "--json").data


def test_a_stage_is_paused_drained_and_let_work_again(hagd: CommandLine, finished: Path) -> None:
    control = StageControl(RunFolder.open(finished).open_store())
    assert hagd("admin", "stage", "pause", "toy-traversal", "--reason", "new release", "--json").code == 0
    assert control.is_paused("toy-traversal")
    assert hagd("admin", "stage", "list", str(finished), "--json").data == [
        {"stage_id": "toy-traversal", "reason": "new release"}
    ]
    assert hagd("admin", "stage", "resume", "toy-traversal", "--json").code == 0
    drained = hagd("admin", "stage", "drain", "toy-traversal", "--seconds", "0", "--json")
    assert (drained.code, drained.data["at_work"], control.is_paused("toy-traversal")) == (0, [], True)
    unknown = hagd("admin", "stage", "pause", "toy-travesal", "--json")
    assert (unknown.code, unknown.error["kind"]) == (2, "unknown-name")


def test_stalled_runs_of_the_services_are_put_into_their_log_again(hagd: CommandLine, finished: Path) -> None:
    folder = RunFolder.open(finished)
    request = folder.open_runs().request(folder.open_runs().list()[0])
    run_id = create_run(Request("me", "lost", request.plan), folder.open_runs())
    assert [row["run_id"] for row in hagd("run", "list", "--deployed", "--stalled", "--json").data] == [run_id]
    assert hagd("run", "resubmit", "--json").data == [run_id]
    assert hagd("run", "list", "--deployed", "--stalled", "--json").data == []


def test_a_request_of_the_batch_lane_says_so(hagd: CommandLine) -> None:
    answer = hagd("submit", "--lane", "sometimes", "--task", "parity", "--json")
    assert (answer.code, answer.error["kind"]) == (2, "usage")
