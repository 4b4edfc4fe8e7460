"""Executors run a task alike; the process executor also survives what a task may do to its process."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hagd.artifacts.document import Document
from hagd.artifacts.filesystem import FilesystemStore
from hagd.artifacts.store import get_document, put_document
from hagd.errors import AccuracyGateError, CancelledError, CorruptArtifactError, HagdError, StageError, WorkerDiedError
from hagd.execution.executor import Executor, Task
from hagd.execution.inline import InlineExecutor
from hagd.execution.process import ProcessExecutor
from unit.pipeline.toy_stages import NUMBERS, TOTAL

ENVIRONMENT = {"PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.fixture
def store(tmp_path: Path) -> FilesystemStore:
    return FilesystemStore(tmp_path / "store")


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessExecutor]:
    log = tmp_path_factory.mktemp("log") / "worker.log"
    executor = ProcessExecutor(threads=1, grace_seconds=0.5, log_path=log, environment=ENVIRONMENT)
    yield executor
    executor.close()


@pytest.fixture(params=["inline", "process"])
def executor(request: pytest.FixtureRequest) -> Executor:
    return InlineExecutor() if request.param == "inline" else request.getfixturevalue("process")


def numbers_task(**config: Any) -> Task:
    return Task("numbers", "ab" * 32, 1, NUMBERS.run, {"seed": 7, **config}, {}, NUMBERS.outputs)


def total_task(store: FilesystemStore, run: str = TOTAL.run, **config: Any) -> Task:
    ref = put_document(store, Document({}, {"numbers": np.float64([1.5, 2.0, 3.0])}))
    return Task("total", "cd" * 32, 1, run, config, {"numbers": ref}, TOTAL.outputs)


def never() -> bool:
    return False


def ignore(done: float, total: float, message: str) -> None:
    pass


def trouble(tmp_path: Path, *kinds: str) -> str:
    path = tmp_path / "trouble"
    path.write_text("\n".join(kinds))
    return str(path)


def test_a_task_gives_its_outputs_and_what_it_took(executor: Executor, store: FilesystemStore) -> None:
    reports: list[tuple[float, float, str]] = []
    result = executor.execute(total_task(store), store, lambda *report: reports.append(report), never)
    assert get_document(store, result.outputs["total"]).content == {"total": 6.5}
    assert reports == [(1, 1, "added")]
    assert result.seconds >= 0
    assert result.peak_rss_bytes > 1 << 20
    assert result.compute_fingerprint["device"] == "cpu"


def test_both_executors_give_the_same_bytes(process: ProcessExecutor, store: FilesystemStore) -> None:
    one = process.execute(numbers_task(steps=5), store, ignore, never)
    two = InlineExecutor().execute(numbers_task(steps=5), store, ignore, never)
    assert one.outputs == two.outputs


def test_an_error_of_the_stage_arrives_with_its_kind_and_hint(
    executor: Executor, store: FilesystemStore, tmp_path: Path
) -> None:
    with pytest.raises(AccuracyGateError, match="the model knows 3 of 7") as caught:
        executor.execute(total_task(store, trouble=trouble(tmp_path, "gate")), store, ignore, never)
    assert caught.value.hint == "train it longer"


def test_a_defect_of_the_stage_is_an_internal_error(executor: Executor, store: FilesystemStore, tmp_path: Path) -> None:
    with pytest.raises(HagdError, match="ZeroDivisionError: by 0") as caught:
        executor.execute(total_task(store, trouble=trouble(tmp_path, "defect")), store, ignore, never)
    assert caught.value.kind == "internal"


def test_a_function_that_is_not_there_is_named(executor: Executor, store: FilesystemStore) -> None:
    with pytest.raises(HagdError, match="no_such_module:run cannot be loaded") as caught:
        executor.execute(total_task(store, run="no_such_module:run"), store, ignore, never)
    assert "install the extra" in caught.value.hint


def test_roles_that_the_stage_does_not_declare_are_a_defect(executor: Executor, store: FilesystemStore) -> None:
    task = total_task(store, run="unit.pipeline.toy_stages:make_numbers", seed=1, steps=1)
    with pytest.raises(StageError, match=r"gave \['numbers'\] where it declares \['total'\]"):
        executor.execute(task, store, ignore, never)


def test_a_damaged_input_is_refused(executor: Executor, store: FilesystemStore, tmp_path: Path) -> None:
    task = total_task(store)
    next((tmp_path / "store" / "blobs").rglob(task.inputs["numbers"].sha256[2:])).write_bytes(b"x")
    with pytest.raises(CorruptArtifactError):
        executor.execute(task, store, ignore, never)


def test_a_stop_is_heeded_at_the_next_progress_and_the_checkpoint_stays(
    executor: Executor, store: FilesystemStore, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    task = numbers_task(steps=7, pause_seconds=0.05, journal=str(journal))
    steps: list[float] = []
    with pytest.raises(CancelledError, match="was stopped"):
        executor.execute(task, store, lambda done, *_: steps.append(done), lambda: len(steps) >= 2)
    executor.execute(task, store, ignore, never)
    lines = journal.read_text().split("\n")
    assert lines[0] == "numbers from 0"
    assert lines[1] in {f"numbers from {step}" for step in range(2, 7)}
    assert lines[2:] == ["numbers done", ""]


def test_a_stop_that_is_not_heeded_kills_the_worker_after_its_grace(
    process: ProcessExecutor, store: FilesystemStore
) -> None:
    started = time.monotonic()
    with pytest.raises(CancelledError):
        process.execute(numbers_task(steps=1, pause_seconds=60), store, ignore, lambda: True)
    assert time.monotonic() - started < 10


def test_a_worker_that_dies_is_an_error_and_the_next_task_gets_a_fresh_one(
    process: ProcessExecutor, store: FilesystemStore, tmp_path: Path
) -> None:
    with pytest.raises(WorkerDiedError, match="'total' was killed by SIGKILL") as caught:
        process.execute(total_task(store, trouble=trouble(tmp_path, "die")), store, ignore, never)
    assert caught.value.transient
    assert process.execute(total_task(store), store, ignore, never).outputs


def test_a_worker_that_ends_by_itself_tells_its_last_words(store: FilesystemStore, tmp_path: Path) -> None:
    (tmp_path / "quitter.py").write_text(
        "import os, sys\ndef run(i, c, x):\n    print('out of luck', file=sys.stderr, flush=True)\n    os._exit(3)\n"
    )
    executor = ProcessExecutor(threads=1, environment={"PYTHONPATH": str(tmp_path)})
    with pytest.raises(WorkerDiedError, match="ended with exit status 3: out of luck"):
        executor.execute(total_task(store, run="quitter:run"), store, ignore, never)
    executor.close()


def test_a_worker_is_warm_until_its_tasks_are_used_up_and_what_it_prints_does_no_harm(
    store: FilesystemStore, tmp_path: Path
) -> None:
    (tmp_path / "teller.py").write_text(
        "import os\nfrom hagd.artifacts.document import Document\n"
        "def run(i, c, x):\n    print('chatter', flush=True)\n    os.system('echo more chatter')\n"
        "    return {'total': Document({'pid': os.getpid(), 'threads': os.environ['OMP_NUM_THREADS']})}\n"
    )
    log = tmp_path / "worker.log"
    executor = ProcessExecutor(threads=3, max_tasks=2, log_path=log, environment={"PYTHONPATH": str(tmp_path)})
    told: list[Any] = []
    for _ in range(3):
        result = executor.execute(total_task(store, run="teller:run"), store, ignore, never)
        told.append(get_document(store, result.outputs["total"]).content)
    executor.close()
    assert told[0]["pid"] == told[1]["pid"] != told[2]["pid"]
    assert told[0]["threads"] == "3"
    assert log.read_text().count("chatter") == 6


def test_a_worker_ends_with_its_driver(store: FilesystemStore, tmp_path: Path) -> None:
    driver = f"""
import sys
from pathlib import Path
from hagd.artifacts.filesystem import FilesystemStore
from hagd.execution.executor import Task
from hagd.execution.process import ProcessExecutor
task = Task("t", "ab" * 32, 1, "sleeper:run", {{}}, {{}}, ())
executor = ProcessExecutor(threads=1, environment={{"PYTHONPATH": {str(tmp_path)!r}}})
store = FilesystemStore(Path({str(tmp_path / "store")!r}))
executor.execute(task, store, lambda *_: print("up", flush=True), lambda: False)
"""
    (tmp_path / "sleeper.py").write_text(
        "import os, time\ndef run(i, c, x):\n"
        f"    open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        "    x.progress(1, 1, '')\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", driver], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.kill()
    worker = int((tmp_path / "pid").read_text())
    ended = threading.Event()
    for _ in range(100):
        status = Path(f"/proc/{worker}/status")
        if not status.exists() or "State:\tZ" in status.read_text():
            ended.set()
            break
        time.sleep(0.05)
    assert ended.is_set()


def test_the_driver_never_imports_torch() -> None:
    modules = "hagd.pipeline.embedded, hagd.pipeline.loop, hagd.execution.process, hagd.testing"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
