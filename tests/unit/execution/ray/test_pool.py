"""What a service reserves in a Ray cluster: parts of GPUs and whole ones, and nothing while no task comes.

Ray is loaded by the tests and not with the module: it reads at that moment how a cluster is to be spoken to.
"""

import secrets
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from hagd.artifacts.filesystem import FilesystemStore
from hagd.artifacts.store import get_document
from hagd.errors import UnavailableError
from hagd.execution.executor import Executor, Task

pytestmark = [pytest.mark.ray, pytest.mark.servers, pytest.mark.xdist_group("ray")]


@pytest.fixture(autouse=True)
def nothing_stays_reserved(ray_address: str) -> Iterator[None]:
    yield
    eventually(lambda: free("GPU") == 2.0)


@contextmanager
def executing(address: str, **settings: Any) -> Generator[Executor]:
    """Give an executor whose workers need little of a CPU."""
    from hagd.execution.ray.executor import RayExecutor  # noqa: PLC0415
    from hagd.execution.ray.settings import RaySettings  # noqa: PLC0415

    executor = RayExecutor(RaySettings(address, cpus=0.25, **settings))
    try:
        yield executor
    finally:
        executor.close()


def free(resource: str) -> float:
    import ray  # noqa: PLC0415

    return float(ray.available_resources().get(resource, 0.0))


def eventually(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never held"
        time.sleep(0.1)


def execute(executor: Executor, tmp_path: Path, run: str, **config: Any) -> dict[str, Any]:
    store = FilesystemStore(tmp_path / "store")
    task = Task("toy", secrets.token_hex(32), 1, f"contract.executed:{run}", config, {}, ("told",))
    result = executor.execute(task, store, lambda *_: None, lambda: False)
    return get_document(store, result.outputs["told"]).content


def met(executor: Executor, tmp_path: Path, parties: int) -> list[str]:
    """Give the GPUs that each of so many tasks has, all at a time."""
    folder = tmp_path / "meeting"
    folder.mkdir()
    with ThreadPoolExecutor(parties) as pool:
        tasks = [
            pool.submit(execute, executor, tmp_path, "meet", folder=str(folder), name=str(number), parties=parties)
            for number in range(parties)
        ]
        return sorted(task.result()["CUDA_VISIBLE_DEVICES"] for task in tasks)


def test_workers_that_reserve_half_a_gpu_share_one_by_twos(ray_address: str, tmp_path: Path) -> None:
    with executing(ray_address, workers=4, gpus=0.5) as executor:
        assert met(executor, tmp_path, 4) == ["0", "0", "1", "1"]


def test_workers_that_reserve_a_gpu_have_one_each(ray_address: str, tmp_path: Path) -> None:
    with executing(ray_address, workers=2, gpus=1.0) as executor:
        assert met(executor, tmp_path, 2) == ["0", "1"]


def test_a_worker_that_reserves_two_gpus_has_both_and_leaves_none_to_others(ray_address: str, tmp_path: Path) -> None:
    with executing(ray_address, gpus=2.0) as both:
        assert execute(both, tmp_path, "tell")["CUDA_VISIBLE_DEVICES"] == "0,1"
        with (
            executing(ray_address, gpus=0.5, start_time=timedelta(seconds=3)) as other,
            pytest.raises(UnavailableError, match=r"no place for a Ray worker with .*GPU"),
        ):
            execute(other, tmp_path, "tell")


def test_a_worker_that_reserves_no_gpu_sees_none(ray_address: str, tmp_path: Path) -> None:
    with executing(ray_address) as executor:
        assert execute(executor, tmp_path, "tell")["CUDA_VISIBLE_DEVICES"] == ""


def test_an_idle_worker_gives_back_what_it_reserves_and_the_next_task_brings_another(
    ray_address: str, tmp_path: Path
) -> None:
    with executing(ray_address, gpus=2.0, idle_time=timedelta(seconds=2)) as executor:
        first, second = (execute(executor, tmp_path, "tell")["pid"] for _ in range(2))
        assert first == second
        assert free("GPU") == 0.0
        eventually(lambda: free("GPU") == 2.0)
        eventually(lambda: not Path(f"/proc/{first}").exists())
        assert execute(executor, tmp_path, "tell")["pid"] != first
