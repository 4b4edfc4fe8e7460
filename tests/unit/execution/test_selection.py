"""The executor of a service follows from its settings."""

import sys
from pathlib import Path

import pytest

from hagd.errors import UsageError
from hagd.execution.executor import Executor
from hagd.execution.inline import InlineExecutor
from hagd.execution.pooled import PooledExecutor
from hagd.execution.process import ProcessExecutor
from hagd.execution.ray.settings import RaySettings
from hagd.execution.selection import ExecutorSettings, open_executor


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
