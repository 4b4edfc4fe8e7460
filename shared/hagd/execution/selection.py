"""Which executor a service uses: its options, the variables that stand in for them, and how it is made."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final, Literal, get_args

from hagd.errors import InvalidInputError, UsageError
from hagd.execution.executor import Executor
from hagd.execution.inline import InlineExecutor
from hagd.execution.pooled import PooledExecutor
from hagd.execution.process import ProcessExecutor
from hagd.execution.ray.settings import RaySettings
from hagd.execution.running import available_threads

Kind = Literal["process", "ray", "inline"]
_GIB: Final = 2**30


@dataclass(frozen=True)
class ExecutorSettings:
    """Where the tasks of one service run.

    Raises:
        InvalidInputError: no task could run.
    """

    kind: Kind = "process"
    """Worker processes here, actors of a Ray cluster, or this very process, which a task can then take down."""
    workers: int = 1
    """Tasks at a time."""
    ray: RaySettings | None = None
    """For kind `ray`."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise InvalidInputError(f"{self.workers} workers do nothing", "give at least one")


def open_executor(settings: ExecutorSettings, threads: int | None, log_path: Path | None) -> Executor:
    """Give an executor; it starts no worker before the first task.

    Args:
        settings: which one.
        threads: CPU threads of each worker process; this machine's, shared out, when None.
        log_path: where worker processes write what they print.

    Raises:
        UsageError: Ray is asked for and not installed.
    """
    if settings.kind == "inline":
        return InlineExecutor()
    if settings.kind == "ray":
        return _ray_executor(settings)
    share = threads or max(1, available_threads() // settings.workers)
    executors = [ProcessExecutor(threads=share, log_path=log_path) for _ in range(settings.workers)]
    return executors[0] if len(executors) == 1 else PooledExecutor(executors)


def _ray_executor(settings: ExecutorSettings) -> Executor:
    try:
        # An extra, and a second of loading.
        from hagd.execution.ray.executor import RayExecutor  # noqa: PLC0415
    except ImportError as error:
        raise UsageError(f"Ray cannot be loaded: {error}", "pip install 'hagd[ray]'") from error
    return RayExecutor(settings.ray or RaySettings(workers=settings.workers))


def add_executor_options(parser: argparse.ArgumentParser, environment: Mapping[str, str]) -> None:
    """Add the options that `executor_of` reads; the variable of an option is HAGD_ and its name."""

    def add(name: str, default: str | None, kind: type, help: str) -> None:
        variable = "HAGD_" + name.upper().replace("-", "_")
        parser.add_argument(f"--{name}", type=kind, default=environment.get(variable, default), help=help)

    default_kind = environment.get("HAGD_EXECUTOR", "process")
    parser.add_argument("--executor", choices=get_args(Kind), default=default_kind, help="where tasks run")
    add("workers", "1", int, "tasks at a time")
    add("ray-address", "auto", str, "host:port of the cluster; 'auto' is RAY_ADDRESS, else that of this machine")
    add("ray-cpus", None, float, "CPUs that a Ray worker reserves; as many as threads by default")
    add("ray-gpus", "0", float, "GPUs that a Ray worker reserves: 0, a part of one, or whole ones")
    add("ray-memory-gib", None, float, "memory that a Ray worker reserves")
    add("ray-idle-seconds", "60", float, "how long a Ray worker without a task keeps its place")


def executor_of(given: argparse.Namespace, threads: int | None) -> ExecutorSettings:
    """Give what the options say.

    Raises:
        InvalidInputError: they contradict each other, or name what cannot be.
    """
    if given.executor not in get_args(Kind):
        raise InvalidInputError(f"there is no executor {given.executor!r}", f"known: {', '.join(get_args(Kind))}")
    if given.executor != "ray":
        return ExecutorSettings(given.executor, given.workers)
    memory = None if given.ray_memory_gib is None else int(given.ray_memory_gib * _GIB)
    cpus = float(threads or 1) if given.ray_cpus is None else given.ray_cpus
    idle_time = timedelta(seconds=given.ray_idle_seconds)
    pool = RaySettings(given.ray_address, given.workers, cpus, given.ray_gpus, memory, idle_time)
    return ExecutorSettings("ray", given.workers, pool)
