"""The embedded runtime with real files and real processes: killed, damaged, full, contended, and still right."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hagd.errors import (
    AccuracyGateError,
    CorruptArtifactError,
    NotARunError,
    RunConflictError,
    RunLockedError,
    StoreFullError,
)
from hagd.events.sqlite import SqliteEventLog
from hagd.execution.inline import InlineExecutor
from hagd.execution.process import ProcessExecutor
from hagd.pipeline.embedded import EmbeddedRuntime
from hagd.pipeline.folder import RunFolder
from hagd.pipeline.request import PlanEntry, Request
from hagd.pipeline.state import RunState
from unit.pipeline.toy_stages import STAGES

TESTS = str(Path(__file__).parents[2])
DRIVER = """
import signal
import sys
from pathlib import Path
from unit.pipeline import test_embedded as here
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background hands down a deaf ear
with here.open_runtime(Path(sys.argv[1]), process=True) as runtime:
    print("ready", flush=True)
    state = runtime.run(here.request(Path(sys.argv[1]), pause_seconds=0.06))
    print(state.outcome.status, flush=True)
"""


def open_runtime(root: Path, *, process: bool = False, store: Path | None = None) -> EmbeddedRuntime:
    executor = ProcessExecutor(threads=1, environment={"PYTHONPATH": TESTS}) if process else InlineExecutor()
    return EmbeddedRuntime(root, executor=executor, stages=STAGES, store=store)


def request(root: Path, pause_seconds: float = 0.0, name: str = "first", **config: Any) -> Request:
    local = {"journal": str(root.parent / "journal")}
    numbers = {**local, "seed": config.get("seed", 7), "steps": 13, "pause_seconds": pause_seconds}
    total = {**local, "trouble": str(root.parent / "trouble"), "pause_seconds": 5 * pause_seconds}
    plan = (PlanEntry("numbers", 1, numbers), PlanEntry("total", 1, total), PlanEntry("verdict", 2, local))
    return Request("me", name, plan)


def run(root: Path, **config: Any) -> RunState:
    with open_runtime(root) as runtime:
        return runtime.run(request(root, **config))


def journal(root: Path) -> list[str]:
    path = root.parent / "journal"
    return path.read_text().split("\n")[:-1] if path.exists() else []


def blobs(root: Path) -> dict[str, str]:
    folder = root / "store" / "blobs"
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def read(root: Path) -> RunState:
    runs = RunFolder.open(root).open_runs(create=False)
    return runs.get(runs.list()[0])


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(400):
        if condition():
            return
        time.sleep(0.025)
    raise AssertionError("it did not happen within ten seconds")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunState, dict[str, str]]:
    root = tmp_path_factory.mktemp("undisturbed") / "run"
    return run(root), blobs(root)


@pytest.fixture
def driver(root: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", DRIVER, str(root)]
    environment = {**os.environ, "PYTHONPATH": TESTS}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.stderr and process.stderr.read()
        yield process
        process.kill()


def saved_steps(root: Path) -> int:
    return max(
        (int(path.name) for path in (root / "store/objects/checkpoints").rglob("0*[0-9]") if path.is_file()), default=0
    )


def test_a_run_gives_its_verdict_and_what_it_took(root: Path) -> None:
    reports: list[tuple[str, float, float, str]] = []
    with open_runtime(root, process=True) as runtime:
        state = runtime.run(request(root, pause_seconds=0.02), lambda *report: reports.append(report))
        assert runtime.load(state.outputs["evidence"]).content["data"]["verdict"] == "verified"
    assert state.outcome is not None
    assert state.outcome.status == "verified"
    assert [stage.status for stage in state.stages] == ["done", "done", "done"]
    assert state.stages[0].seconds >= 0.26
    assert all(stage.peak_rss_bytes > 1 << 20 for stage in state.stages)
    assert ("numbers", 13, 13, "drawing") in reports
    assert read(root) == state
    assert not RunFolder.open(root).is_active()


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_a_run_killed_in_the_middle_of_a_stage_goes_on_and_gives_the_same_bytes(
    root: Path, driver: subprocess.Popen[str], undisturbed: tuple[RunState, dict[str, str]], kind: signal.Signals
) -> None:
    wait_for(lambda: saved_steps(root) >= 3)
    assert [stage.status for stage in read(root).stages] == ["running", "pending", "pending"]
    with pytest.raises(RunLockedError, match=f"process {driver.pid} is working in"):
        open_runtime(root)
    driver.send_signal(kind)
    assert driver.wait(timeout=10) != 0
    assert read(root).outcome is None
    assert not RunFolder.open(root).is_active()
    state = run(root)
    assert state.outputs == undisturbed[0].outputs
    assert blobs(root) == undisturbed[1]
    assert journal(root)[0] == "numbers from 0"
    assert int(journal(root)[1].removeprefix("numbers from ")) >= 3
    assert journal(root)[2:] == ["numbers done", "total", "verdict"]


def test_finished_stages_are_not_computed_again_after_kill_9(root: Path, driver: subprocess.Popen[str]) -> None:
    wait_for(lambda: "total" in journal(root))
    driver.kill()
    driver.wait()
    state = run(root)
    assert journal(root) == ["numbers from 0", "numbers done", "total", "total", "verdict"]
    assert [stage.status for stage in state.stages] == ["cached", "done", "done"]


def test_issuing_a_finished_command_again_computes_nothing(root: Path) -> None:
    first = run(root)
    lines = journal(root)
    assert run(root) == first
    assert journal(root) == lines


def test_the_same_name_with_other_settings_is_a_conflict_and_loses_nothing(root: Path) -> None:
    first = run(root)
    with pytest.raises(RunConflictError, match="a run with other settings is there already"):
        run(root, seed=8)
    assert read(root) == first


def test_a_damaged_artifact_is_refused_to_readers_and_computed_again_by_the_command(
    root: Path, undisturbed: tuple[RunState, dict[str, str]]
) -> None:
    state = run(root)
    ref = state.outputs["numbers"]
    path = root / "store" / "blobs" / ref.sha256[:2] / ref.sha256[2:]
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    with open_runtime(root) as runtime, pytest.raises(CorruptArtifactError, match="does not match its digest"):
        runtime.load(ref)
    again = run(root)
    assert again.outputs == state.outputs
    assert [stage.status for stage in again.stages] == ["done", "cached", "cached"]
    assert blobs(root) == undisturbed[1]


def test_a_full_disk_is_an_error_that_loses_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: tuple[RunState, dict[str, str]]
) -> None:
    fsync, calls = os.fsync, iter(range(10**6))

    def fill_up(descriptor: int) -> None:
        if next(calls) >= 31:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fill_up)
        with pytest.raises(StoreFullError, match="no room left"):
            run(root)
    assert read(root).outcome is None
    assert run(root).outputs == undisturbed[0].outputs
    assert blobs(root) == undisturbed[1]


@pytest.mark.parametrize("allowed", range(0, 92, 13))
def test_wherever_the_disk_fills_up_the_next_try_gives_the_same_bytes(
    root: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: tuple[RunState, dict[str, str]], allowed: int
) -> None:
    fsync, calls = os.fsync, iter(range(10**6))

    def fill_up(descriptor: int) -> None:
        if next(calls) >= allowed:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fill_up)
        with pytest.raises(StoreFullError):
            run(root)
    assert run(root).outputs == undisturbed[0].outputs
    assert blobs(root) == undisturbed[1]


def test_a_lost_event_log_costs_nothing(root: Path) -> None:
    state = run(root)
    for path in root.glob("events.sqlite*"):
        path.write_bytes(b"damaged beyond repair, all of it" * 99)
    with pytest.raises(CorruptArtifactError, match="is no event log"):
        run(root)
    for path in root.glob("events.sqlite*"):
        path.unlink()
    assert run(root) == state


def test_a_failed_run_raises_its_error_and_goes_on_when_the_cause_is_gone(root: Path) -> None:
    (root.parent / "trouble").write_text("gate")
    state = run(root)
    with pytest.raises(AccuracyGateError, match="the model knows 3 of 7"):
        state.raise_for_failure()
    again = run(root)
    again.raise_for_failure()
    assert [stage.status for stage in again.stages] == ["cached", "done", "done"]
    assert (state.generation, again.generation) == (0, 1)


def test_a_worker_killed_in_a_stage_is_replaced(root: Path) -> None:
    (root.parent).mkdir(exist_ok=True)
    (root.parent / "trouble").write_text("die")
    with open_runtime(root, process=True) as runtime:
        state = runtime.run(request(root))
    assert [stage.status for stage in state.stages] == ["done", "done", "done"]
    assert journal(root).count("total") == 2


def test_runs_with_a_shared_store_share_finished_stages(tmp_path: Path) -> None:
    states: list[RunState] = []
    for name in ("one", "two"):
        with open_runtime(tmp_path / name, store=tmp_path / "shared") as runtime:
            states.append(runtime.run(request(tmp_path / name)))
    assert [stage.status for stage in states[1].stages] == ["cached", "cached", "cached"]
    assert states[0].outputs == states[1].outputs
    assert RunFolder.open(tmp_path / "two").store_path == tmp_path / "shared"


def test_a_folder_without_a_run_is_not_shown(root: Path) -> None:
    with pytest.raises(NotARunError):
        read(root)
    open_runtime(root).close()
    with pytest.raises(NotARunError, match="half written"):
        read(root)


def test_a_run_submitted_to_a_server_and_cancelled_elsewhere_stops(root: Path) -> None:
    with open_runtime(root) as runtime:
        server = threading.Thread(target=runtime.serve)
        server.start()
        finished = runtime.submit(request(root))
        wait_for(lambda: runtime.runs.outcome(finished) is not None)
        slow = runtime.submit(request(root, name="slow", seed=3, pause_seconds=0.2))
        wait_for(lambda: runtime.runs.stages(slow)[0].status == "running")
        RunFolder.open(root).open_runs().cancel(slow)
        wait_for(lambda: runtime.runs.outcome(slow) is not None)
        runtime.stop.set()
        server.join(timeout=10)
        assert not server.is_alive()
    outcome = runtime.runs.outcome(slow)
    assert outcome is not None
    assert outcome.status == "cancelled"


def test_requests_left_in_the_log_by_a_killed_server_are_worked_off_by_the_next(root: Path) -> None:
    with open_runtime(root) as runtime:
        run_id = runtime.submit(request(root))
        assert runtime.log.claim(["hagd.extraction.requested.v1"], 3600) is not None
    with open_runtime(root) as runtime:
        server = threading.Thread(target=runtime.serve)
        server.start()
        wait_for(lambda: runtime.runs.outcome(run_id) is not None)
        runtime.stop.set()
        server.join(timeout=10)


def test_a_runtime_that_could_not_open_its_log_holds_no_lock(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_runtime(root).close()
    with monkeypatch.context() as patched:
        patched.setattr(SqliteEventLog, "append", None)
        (root / "events.sqlite").write_bytes(b"x" * 5000)
        with pytest.raises(CorruptArtifactError):
            open_runtime(root)
    for path in root.glob("events.sqlite*"):
        path.unlink()
    open_runtime(root).close()
