"""Restoring after the log was lost: the store alone is enough to bring every run to its one outcome."""

import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hagd.artifacts.clock import SystemClock
from hagd.artifacts.leases import LeaseTable, Owner, this_process
from hagd.events.sqlite import SqliteEventLog
from hagd.execution.inline import InlineExecutor
from hagd.pipeline.folder import RunFolder
from hagd.pipeline.loop import StageLoop
from hagd.pipeline.request import PlanEntry, Request
from hagd.pipeline.router import RequestRouter
from hagd.pipeline.submission import submit
from integration.command_line import CommandLine
from unit.pipeline.toy_stages import STAGES


@dataclass
class Place:
    """The services of one folder, step by step."""

    root: Path

    def __post_init__(self) -> None:
        folder, clock = RunFolder.prepare(self.root), SystemClock()
        self.store, self.runs, self.log = folder.open_store(), folder.open_runs(), SqliteEventLog(folder.log_path)
        self.router = RequestRouter(self.log, self.runs, STAGES)
        parts = (self.log, self.store, self.runs, InlineExecutor())
        self.loops = [StageLoop(spec, *parts, LeaseTable(self.store, clock), clock) for spec in STAGES.values()]

    def submit(self, name: str, journal: Path, seed: int = 3) -> str:
        return submit(journaled(name, journal, seed), self.runs.store, self.log, STAGES)

    def work(self, stages: int) -> None:
        """Work off what there is by the router and the first so many stages."""
        while any([self.router.step(), *(loop.step() for loop in self.loops[:stages])]):
            pass


def journaled(name: str, journal: Path, seed: int) -> Request:
    """Give a request whose stages leave a line each, for every time that they are computed, in a file of its name."""
    configs: dict[str, dict[str, Any]] = {"numbers": {"seed": seed}, "verdict": {"threshold": -100.0}}
    plan = tuple(
        PlanEntry(stage_id, spec.semantics_version, configs.get(stage_id, {}) | {"journal": f"{journal}/{name}"})
        for stage_id, spec in STAGES.items()
    )
    return Request("me", name, plan)


ONCE_EACH = {"numbers from 0": 1, "numbers done": 1, "total": 1, "verdict": 1}
"""The lines of a run of which nothing was computed twice."""


@pytest.fixture
def lost(tmp_path: Path) -> tuple[Path, dict[str, str], Path]:
    """Give a copy of a folder at work, without its log; its runs by how far they were; the journals of stages."""
    journal, before = tmp_path / "journal", Place(tmp_path / "before")
    journal.mkdir()
    ids = {"finished": before.submit("finished", journal, seed=1)}
    before.work(3)
    ids["two-done"] = before.submit("two-done", journal, seed=2)
    before.work(2)
    ids["one-done"] = before.submit("one-done", journal, seed=4)
    before.work(1)
    ids["cancelled"] = before.submit("cancelled", journal, seed=5)
    before.runs.cancel(ids["cancelled"])
    ids["submitted"] = before.submit("submitted", journal, seed=6)
    # A process that held the lease of a task and is gone since.
    [running] = [stage.task_key for stage in before.runs.get(ids["finished"]).stages][:1]
    gone = Owner("gone", this_process().host, 2**22 + 1, 1.0)
    assert LeaseTable(before.store, SystemClock(), gone).acquire(running)
    shutil.copytree(before.root, tmp_path / "restored")
    before.log.close()
    for path in (tmp_path / "restored").glob("events.sqlite*"):
        path.unlink()
    return tmp_path / "restored", ids, journal


def test_resubmitted_runs_reach_one_outcome_each_and_no_finished_stage_is_computed_again(
    lost: tuple[Path, dict[str, str], Path], hagd: CommandLine
) -> None:
    root, ids, journal = lost
    unfinished = {ids["two-done"], ids["one-done"], ids["submitted"]}
    stalled = {run["run_id"] for run in hagd("run", "list", str(root), "--stalled", "--json").data}

    assert stalled == unfinished | {ids["cancelled"]}
    assert set(hagd("run", "resubmit", str(root), "--json").data) == unfinished
    assert hagd("run", "resubmit", str(root), "--json").data == []
    assert hagd("run", "list", str(root), "--stalled", "--json").data == []

    restored = Place(root)
    restored.work(3)
    restored.log.close()
    outcomes = {name: restored.runs.outcome(run_id) for name, run_id in ids.items()}
    assert {name: outcome and outcome.status for name, outcome in outcomes.items()} == {
        "finished": "verified",
        "two-done": "verified",
        "one-done": "verified",
        "cancelled": "cancelled",
        "submitted": "verified",
    }
    for name in ("finished", "two-done", "one-done", "submitted"):
        lines = Counter((journal / name).read_text().splitlines())
        assert lines == ONCE_EACH, name


def test_stalled_runs_are_told_from_those_that_wait_for_a_service(tmp_path: Path, hagd: CommandLine) -> None:
    place = Place(tmp_path / "waiting")
    place.submit("waits", tmp_path)
    place.log.close()
    assert hagd("run", "list", str(place.root), "--stalled", "--minutes", "0", "--json").data == []
    assert hagd("run", "list", "--stalled", "--address", "127.0.0.1:1", "--json").error["kind"] == "usage"
