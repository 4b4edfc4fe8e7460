"""The executor of a service follows from its options, its environment and its defaults, in this order."""

import argparse
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from hagd.errors import InvalidInputError, UsageError
from hagd.execution.executor import Executor
from hagd.execution.inline import InlineExecutor
from hagd.execution.pooled import PooledExecutor
from hagd.execution.process import ProcessExecutor
from hagd.execution.ray.settings import RaySettings
from hagd.execution.selection import ExecutorSettings, add_executor_options, executor_of, open_executor


def read(*arguments: str, threads: int | None = None, **environment: str) -> ExecutorSettings:
    parser = argparse.ArgumentParser()
    add_executor_options(parser, environment)
    return executor_of(parser.parse_args(arguments), threads)


def test_the_default_is_one_worker_process() -> None:
    assert read() == ExecutorSettings("process", 1, None)


def test_an_option_comes_before_its_variable() -> None:
    environment = {"HAGD_EXECUTOR": "ray", "HAGD_WORKERS": "3", "HAGD_RAY_GPUS": "0.5", "HAGD_RAY_IDLE_SECONDS": "7"}
    assert read(**environment).ray == RaySettings(workers=3, gpus=0.5, idle_time=timedelta(seconds=7))
    given = read("--workers", "5", "--ray-gpus", "2", "--ray-memory-gib", "1.5", **environment).ray
    assert given is not None
    assert (given.workers, given.gpus, given.memory_bytes) == (5, 2.0, 3 * 2**29)
    assert read("--executor", "process", **environment) == ExecutorSettings("process", 3)


@pytest.mark.parametrize(
    ("threads", "cpus", "reserved"), [(None, (), 1.0), (3, (), 3.0), (3, ("--ray-cpus", "0.5"), 0.5)]
)
def test_a_ray_worker_reserves_as_many_cpus_as_it_has_threads(
    threads: int | None, cpus: tuple[str, ...], reserved: float
) -> None:
    ray = read("--executor", "ray", *cpus, threads=threads).ray
    assert ray is not None
    assert ray.cpus == reserved


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--workers", "0"), "0 workers do nothing"),
        (("--executor", "ray", "--workers", "0"), "0 Ray workers"),
        (("--executor", "ray", "--ray-gpus", "1.5"), "1.5 GPUs"),
        (("--executor", "ray", "--ray-gpus", "-1"), "-1 GPUs"),
        (("--executor", "ray", "--ray-address", "ray://head:10001"), "Ray Client"),
    ],
)
def test_what_cannot_run_is_refused_at_once(arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words) as caught:
        read(*arguments)
    assert caught.value.hint


def test_a_variable_that_names_no_executor_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="no executor 'slurm'") as caught:
        read(HAGD_EXECUTOR="slurm")
    assert caught.value.hint == "known: process, ray, inline"


def test_what_a_ray_worker_reserves_is_said_in_words() -> None:
    assert RaySettings().reserved == "1 CPU"
    assert RaySettings(cpus=0.5, gpus=2, memory_bytes=3 * 2**29).reserved == "0.5 CPU, 2 GPU, 1.5 GiB"


def test_threads_of_a_ray_worker_are_its_whole_cpus() -> None:
    assert [RaySettings(cpus=cpus).threads for cpus in (0, 0.5, 1, 2.5)] == [1, 1, 1, 2]


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        (ExecutorSettings("inline"), InlineExecutor),
        (ExecutorSettings(), ProcessExecutor),
        (ExecutorSettings(workers=2), PooledExecutor),
    ],
)
def test_an_executor_is_made_without_starting_anything(
    settings: ExecutorSettings, kind: type[Executor], tmp_path: Path
) -> None:
    executor = open_executor(settings, 1, tmp_path / "worker.log")
    assert type(executor) is kind
    executor.close()


def test_ray_that_is_not_installed_is_a_usage_error_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name == "ray" or name.startswith("hagd.execution.ray.executor")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match="Ray cannot be loaded") as caught:
        open_executor(ExecutorSettings("ray"), None, None)
    assert "hagd[ray]" in caught.value.hint
