"""Dictionaries trained by two processes of one task: in every executor, killed at either end, stopped, and failing."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from hagd.artifacts.document import Document
from hagd.artifacts.filesystem import FilesystemStore
from hagd.artifacts.store import get_document, put_document
from hagd.errors import CancelledError, HagdError, NonFiniteError, WorkerDiedError
from hagd.execution.executor import Executor, Task
from hagd.execution.inline import InlineExecutor
from hagd.execution.process import ProcessExecutor
from hagd.testing import RecordingContext
from hagd_transcoder.corpus_dictionaries import run
from hagd_transcoder.corpus_estimate import estimate
from hagd_transcoder.members import together
from ray_cluster import ray_param
from unit.hagd_transcoder.test_corpus_training import inputs

CONFIG: dict[str, Any] = {"n_features": 97, "k": 3, "batch": 60, "buffer": 120, "tokens": 1200, "traced": 0}
LONG = {**CONFIG, "tokens": 60_000, "layers": [1], "shown_features": 0}


@pytest.fixture
def store(tmp_path: Path) -> FilesystemStore:
    return FilesystemStore(tmp_path / "store")


@pytest.fixture(scope="module")
def process() -> Iterator[Executor]:
    executor = ProcessExecutor(threads=2)
    yield executor
    executor.close()


@pytest.fixture(scope="module")
def ray(ray_address: str) -> Iterator[Executor]:
    # Only here, because Ray may not be installed.
    from hagd.execution.ray.executor import RayExecutor  # noqa: PLC0415
    from hagd.execution.ray.settings import RaySettings  # noqa: PLC0415

    executor = RayExecutor(RaySettings(ray_address, cpus=2))
    yield executor
    executor.close()


@pytest.fixture(params=["inline", "process", ray_param("ray")])
def executor(request: pytest.FixtureRequest) -> Executor:
    return InlineExecutor() if request.param == "inline" else request.getfixturevalue(request.param)


@pytest.fixture(params=["process", ray_param("ray")])
def isolated(request: pytest.FixtureRequest) -> Executor:
    return request.getfixturevalue(request.param)


def training(store: FilesystemStore, config: dict[str, Any], key: str = "ab") -> Task:
    refs = {role: put_document(store, document) for role, document in inputs().items()}
    work = "hagd_transcoder.corpus_dictionaries:run"
    return Task("corpus-transcoder", key * 32, 1, work, config, refs, ("dictionaries", "training"))


def never() -> bool:
    return False


def members() -> list[psutil.Process]:
    """Give the processes on this machine that train with others, of this test and of nobody else."""
    found: list[psutil.Process] = []
    for it in psutil.process_iter():
        try:
            if "hagd_transcoder.members" in it.cmdline() and it.status() != psutil.STATUS_ZOMBIE:
                parents = [parent.pid for parent in it.parents()]
                of_ray = any(parent.name().startswith("ray::") for parent in it.parents())
                found += [it] if os.getpid() in parents or of_ray else []
        except psutil.Error:
            continue
    return found


def gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=20)[1]


@dataclass
class Killer:
    """Receives progress, and kills once when so many steps are done."""

    at: float
    kill: Callable[[], None]
    began: float | None = None
    """The first step that was told of."""
    done: bool = False

    def __call__(self, done: float, *_: object) -> None:
        self.began = done if self.began is None and done else self.began
        if done >= self.at and not self.done:
            self.done = True
            self.kill()


def alike(found: Document, wanted: Document) -> bool:
    """Say whether weights differ by no more than rounding errors make of them."""
    return found.tensors.keys() == wanted.tensors.keys() and all(
        np.linalg.norm(found.tensors[name] - array) <= 1e-5 * np.linalg.norm(array)
        for name, array in wanted.tensors.items()
    )


def test_two_processes_learn_what_one_learns(executor: Executor, store: FilesystemStore) -> None:
    def dictionaries(**config: Any) -> Document:
        task = training(store, {**CONFIG, **config}, key=f"{len(config)}a")
        return get_document(store, executor.execute(task, store, lambda *_: None, never).outputs["dictionaries"])

    found, wanted = dictionaries(workers=2), dictionaries()
    assert alike(found, wanted)
    assert found.content["metrics"]["fvu_mean"] == pytest.approx(wanted.content["metrics"]["fvu_mean"], rel=1e-4)
    assert members() == []


def killed_and_taken_up(
    executor: Executor, store: FilesystemStore, kill: Callable[[psutil.Process], None], said: str
) -> None:
    """Kill in mid task; the next attempt goes on, and ends with the same bytes as one that nobody disturbed."""
    task, seen = training(store, {**LONG, "workers": 2}), list[psutil.Process]()

    def strike() -> None:
        (member,) = members()
        seen.append(member)
        kill(member)

    killer = Killer(200, strike)
    began = time.monotonic()
    with pytest.raises(WorkerDiedError, match=said):
        executor.execute(task, store, killer, never)
    assert time.monotonic() - began < 120
    assert gone(seen)
    again = Killer(1e9, lambda: None)
    result = executor.execute(replace(task, epoch=2), store, again, never)
    assert again.began is not None and again.began > 100
    whole = executor.execute(training(store, {**LONG, "workers": 2}, key="cd"), store, lambda *_: None, never)
    assert result.outputs["dictionaries"] == whole.outputs["dictionaries"]


@pytest.mark.slow
def test_a_killed_member_is_a_lost_worker_and_the_next_attempt_goes_on(
    isolated: Executor, store: FilesystemStore
) -> None:
    said = "process 1 of those that train together was killed by SIGKILL"
    killed_and_taken_up(isolated, store, lambda member: member.send_signal(signal.SIGKILL), said)


@pytest.mark.slow
def test_members_end_with_a_killed_worker_and_the_next_attempt_goes_on(
    isolated: Executor, store: FilesystemStore
) -> None:
    said = "the worker of stage 'corpus-transcoder'"
    killed_and_taken_up(isolated, store, lambda member: os.kill(member.ppid(), signal.SIGKILL), said)


def test_members_end_when_the_task_is_stopped(isolated: Executor, store: FilesystemStore) -> None:
    seen: list[psutil.Process] = []

    def look(done: float, total: float, message: str) -> None:
        if done >= 3 and not seen:
            seen.extend(members())

    with pytest.raises(CancelledError):
        isolated.execute(training(store, {**LONG, "workers": 2}), store, look, lambda: bool(seen))
    assert len(seen) == 1
    assert gone(seen)


def test_a_run_of_two_that_was_stopped_goes_on_with_the_same_bytes() -> None:
    config = {**CONFIG, "workers": 2}
    undisturbed, stopped = run(inputs(), config, RecordingContext()), RecordingContext(cancel_after=9)
    with pytest.raises(CancelledError):
        run(inputs(), config, stopped)
    assert stopped.checkpoints
    assert members() == []
    found = run(inputs(), config, RecordingContext(checkpoints=stopped.checkpoints))
    assert found["dictionaries"].encode() == undisturbed["dictionaries"].encode()
    alone = run(inputs(), CONFIG, RecordingContext(checkpoints=stopped.checkpoints))
    assert alike(found["dictionaries"], alone["dictionaries"])


def test_members_get_inputs_config_checkpoint_and_their_share_of_the_threads() -> None:
    given = {
        "one": Document(
            {"é": [1]}, {"numbers": np.float32([1.5, 2.0]), "none": np.zeros((0, 3)), "flag": np.bool_([1])}
        ),
        "two": Document({}, {"numbers": np.array(0.25)}),
    }
    threads, kept = torch.get_num_threads(), Document({}, {"state": np.float32([[2.0], [3.0]])})
    for checkpoints, loaded in (({}, 0.0), ({7: kept}, 12.0)):
        context = RecordingContext(checkpoints=dict(checkpoints))
        torch.set_num_threads(5)
        try:
            with together("integration.working_together:add", given, {"more": 10}, context, 3) as (group, shared):
                told = torch.zeros(3, dtype=torch.float64)
                group.sum_([told])
                assert told.tolist() == [2 * 3.75, 20, 2]
                assert torch.get_num_threads() == 1
                assert (shared.load_checkpoint() is None) == (not checkpoints)
                state = torch.zeros(1)
                group.sum_([state])
                assert float(state) == 2 * loaded
            assert torch.get_num_threads() == 5
        finally:
            torch.set_num_threads(threads)
    assert members() == []


@pytest.mark.parametrize(
    ("run", "how", "kind", "said"),
    [
        ("fail", "stage", NonFiniteError, "a member met NaN"),
        ("fail", "defect", HagdError, "ZeroDivisionError: by 0"),
        ("fail", "exit", WorkerDiedError, "process 1 of those that train together ended with exit status 7"),
        ("no_such_function", "", HagdError, "no_such_function cannot be loaded"),
    ],
)
def test_what_a_member_raises_is_raised_here(run: str, how: str, kind: type[HagdError], said: str) -> None:
    began = time.monotonic()
    work = f"integration.working_together:{run}"
    with (
        pytest.raises(kind, match=said),
        together(work, {}, {"how": how}, RecordingContext(), 3) as (group, _),
    ):
        for _ in range(10):
            group.sum_([torch.zeros(1)])
    assert time.monotonic() - began < 60
    assert members() == []


def test_an_error_of_the_first_ends_the_others() -> None:
    work = "integration.working_together:linger"
    with pytest.raises(ZeroDivisionError), together(work, {}, {}, RecordingContext(), 2) as (group, _):
        group.sum_([torch.zeros(1)])
        raise ZeroDivisionError
    assert members() == []


def test_what_two_will_take_is_told_by_two() -> None:
    one, two = (
        estimate(inputs(), {**CONFIG, "workers": number}, RecordingContext())["estimate"].content for number in (1, 2)
    )
    assert members() == []
    # The other process has to load what it needs.
    assert two["seconds"]["start"] > one["seconds"]["start"] + 1
    assert two["memory_bytes"]["checkpoint"] > one["memory_bytes"]["checkpoint"] + 2**28
