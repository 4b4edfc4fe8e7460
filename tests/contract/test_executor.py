"""What every executor promises, and what those promise whose tasks run in a process of their own."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hagd.artifacts.document import Document
from hagd.artifacts.filesystem import FilesystemStore
from hagd.artifacts.reference import ArtifactRef
from hagd.artifacts.store import get_document, put_document
from hagd.errors import CancelledError, CorruptArtifactError, HagdError, StageError, WorkerDiedError
from hagd.execution.executor import Executor, Task, TaskProgress, TaskResult
from hagd.execution.inline import InlineExecutor
from hagd.execution.process import ProcessExecutor
from ray_cluster import ray_param

TESTS = Path(__file__).parents[1]


@pytest.fixture
def store(tmp_path: Path) -> FilesystemStore:
    return FilesystemStore(tmp_path / "store")


@pytest.fixture(scope="module")
def process() -> Iterator[Executor]:
    executor = ProcessExecutor(threads=1, grace_seconds=0.5, environment={"PYTHONPATH": str(TESTS)})
    yield executor
    executor.close()


@pytest.fixture(scope="module")
def ray(ray_address: str) -> Iterator[Executor]:
    # Only here, because Ray may not be installed.
    from hagd.execution.ray.executor import RayExecutor  # noqa: PLC0415
    from hagd.execution.ray.settings import RaySettings  # noqa: PLC0415

    executor = RayExecutor(RaySettings(ray_address, cpus=0.5, grace=timedelta(seconds=0.5)))
    yield executor
    executor.close()


@pytest.fixture(params=["inline", "process", ray_param("ray")])
def executor(request: pytest.FixtureRequest) -> Executor:
    return InlineExecutor() if request.param == "inline" else request.getfixturevalue(request.param)


@pytest.fixture(params=["process", ray_param("ray")])
def isolated(request: pytest.FixtureRequest) -> Executor:
    return request.getfixturevalue(request.param)


def task(run: str, *outputs: str, inputs: dict[str, ArtifactRef] | None = None, **config: Any) -> Task:
    return Task("toy", "ab" * 32, 1, f"contract.executed:{run}", config, inputs or {}, outputs)


def drawing(**config: Any) -> Task:
    return task("draw", "drawn", seed=7, **config)


def numbers(store: FilesystemStore, *values: float) -> ArtifactRef:
    return put_document(store, Document({}, {"numbers": np.float64(values)}))


def never() -> bool:
    return False


def ignore(done: float, total: float, message: str) -> None:
    pass


def with_pid(use: Callable[[int], None]) -> TaskProgress:
    """Give a receiver of progress for tasks that report their process id."""

    def receive(done: float, total: float, message: str) -> None:
        if total > 0:
            use(int(message))

    return receive


def told(store: FilesystemStore, result: TaskResult) -> dict[str, Any]:
    return get_document(store, result.outputs["told"]).content


def test_inputs_and_config_reach_the_task_and_its_outputs_the_store(executor: Executor, store: FilesystemStore) -> None:
    inputs = {"one": numbers(store, 1.5, 2.0, 3.0), "two": numbers(store, 0.25)}
    config = {"text": "é\n", "number": 0.1, "none": None, "list": [1, [True]]}
    result = executor.execute(task("tell", "told", inputs=inputs, **config), store, ignore, never)
    content = told(store, result)
    assert content["config"] == config
    assert content["total"] == {"one": 6.5, "two": 0.25}


def test_what_a_task_took_is_measured(executor: Executor, store: FilesystemStore) -> None:
    result = executor.execute(drawing(steps=2, pause_seconds=0.1), store, ignore, never)
    assert 0.2 <= result.seconds < 10
    assert 1 << 20 < result.peak_rss_bytes < 1 << 34
    assert {"python", "machine", "numpy", "device", "threads"} <= set(result.compute_fingerprint)


def test_all_executors_give_the_same_bytes(executor: Executor, store: FilesystemStore) -> None:
    one = executor.execute(drawing(steps=5), store, ignore, never)
    two = InlineExecutor().execute(replace(drawing(steps=5), task_key="cd" * 32), store, ignore, never)
    assert one.outputs == two.outputs


def test_the_last_progress_arrives_however_short_the_task(executor: Executor, store: FilesystemStore) -> None:
    reports: list[tuple[float, float, str]] = []
    executor.execute(task("tell", "told"), store, lambda *report: reports.append(report), never)
    # A worker that is slow to start may have been reported before.
    assert [report for report in reports if report[1] > 0] == [(1, 1, "told")]


@pytest.mark.parametrize("name", ["AccuracyGateError", "NonFiniteError", "StoreFullError", "UnavailableError"])
def test_an_error_of_the_stage_arrives_as_its_own_class_with_its_hint(
    executor: Executor, store: FilesystemStore, name: str
) -> None:
    with pytest.raises(HagdError, match="the model knows 3 of 7") as caught:
        executor.execute(task("fail", error=name), store, ignore, never)
    assert type(caught.value).__name__ == name
    assert caught.value.hint == "train it longer"


def test_a_defect_of_the_stage_is_an_internal_error(executor: Executor, store: FilesystemStore) -> None:
    with pytest.raises(HagdError, match="ZeroDivisionError: by 0") as caught:
        executor.execute(task("fail", error="none of ours"), store, ignore, never)
    assert caught.value.kind == "internal"


def test_a_function_that_is_not_there_is_named(executor: Executor, store: FilesystemStore) -> None:
    with pytest.raises(HagdError, match="no_such_module:run cannot be loaded") as caught:
        executor.execute(replace(task("tell", "told"), run="no_such_module:run"), store, ignore, never)
    assert "install the extra" in caught.value.hint


def test_roles_that_the_stage_does_not_declare_are_a_defect(executor: Executor, store: FilesystemStore) -> None:
    with pytest.raises(StageError, match=r"gave \['told'\] where it declares \['total'\]"):
        executor.execute(task("tell", "total"), store, ignore, never)


def test_a_damaged_input_is_refused(executor: Executor, store: FilesystemStore, tmp_path: Path) -> None:
    ref = numbers(store, 1.0)
    next((tmp_path / "store" / "blobs").rglob(ref.sha256[2:])).write_bytes(b"x")
    with pytest.raises(CorruptArtifactError):
        executor.execute(task("tell", "told", inputs={"one": ref}), store, ignore, never)


def test_a_stop_is_heeded_at_the_next_progress_and_the_next_attempt_goes_on_from_there(
    executor: Executor, store: FilesystemStore
) -> None:
    going = drawing(steps=23, pause_seconds=0.1, tell_begin=True)
    steps: list[float] = []
    with pytest.raises(CancelledError, match="was stopped"):
        executor.execute(going, store, lambda done, *_: steps.append(done), lambda: len(steps) >= 2)
    result = executor.execute(replace(going, epoch=2), store, ignore, never)
    assert steps[1] <= get_document(store, result.outputs["drawn"]).content["began"] < 23


def test_a_stop_that_is_not_heeded_ends_the_worker_after_its_grace(isolated: Executor, store: FilesystemStore) -> None:
    pids: list[int] = []
    asked: list[float] = []

    def should_stop() -> bool:
        if pids and not asked:
            asked.append(time.monotonic())
        return bool(pids)

    with pytest.raises(CancelledError):
        isolated.execute(task("ignore_everything"), store, with_pid(pids.append), should_stop)
    assert 0.4 < time.monotonic() - asked[0] < 10
    assert_ends(pids[0])


def test_a_worker_killed_in_mid_task_is_an_error_and_the_next_attempt_goes_on_from_its_checkpoint(
    isolated: Executor, store: FilesystemStore
) -> None:
    going = drawing(steps=7, pause_seconds=0.5, tell_begin=True)
    with pytest.raises(WorkerDiedError, match=r"the worker of stage 'toy'.* killed") as caught:
        isolated.execute(going, store, with_pid(lambda pid: os.kill(pid, signal.SIGKILL)), never)
    assert caught.value.transient
    assert caught.value.hint
    result = isolated.execute(
        replace(going, epoch=2, config={**going.config, "pause_seconds": 0}), store, ignore, never
    )
    document = get_document(store, result.outputs["drawn"])
    assert document.content["began"] >= 1
    undisturbed = isolated.execute(replace(drawing(steps=7), task_key="cd" * 32), store, ignore, never)
    drawn = get_document(store, undisturbed.outputs["drawn"]).tensors["numbers"]
    assert document.tensors["numbers"].tolist() == drawn.tolist()


def test_progress_comes_a_few_times_a_second_however_often_a_task_reports(
    isolated: Executor, store: FilesystemStore
) -> None:
    reports: list[str] = []
    result = isolated.execute(task("flood", "told"), store, lambda *report: reports.append(report[2]), never)
    assert told(store, result)["reports"] > 100
    assert len(reports) <= 25
    assert reports[-1] == "last"


def test_a_worker_is_another_process_with_threads_of_its_own_and_stays_warm(
    isolated: Executor, store: FilesystemStore
) -> None:
    first, second = (told(store, isolated.execute(task("tell", "told"), store, ignore, never)) for _ in range(2))
    assert first["pid"] == second["pid"] != os.getpid()
    assert first["OMP_NUM_THREADS"] == "1"


def assert_ends(pid: int) -> None:
    for _ in range(200):
        status = Path(f"/proc/{pid}/status")
        if not status.exists() or "State:\tZ" in status.read_text():
            return
        time.sleep(0.05)
    pytest.fail(f"process {pid} goes on")
