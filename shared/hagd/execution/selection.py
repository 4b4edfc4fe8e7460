"""Which executor a service uses, and how it is made."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hagd.errors import InvalidInputError, UsageError
from hagd.execution.devices import DEVICE_VARIABLE, DeviceKind, Devices
from hagd.execution.executor import Executor
from hagd.execution.inline import InlineExecutor
from hagd.execution.pooled import PooledExecutor
from hagd.execution.process import ProcessExecutor
from hagd.execution.ray.settings import RaySettings
from hagd.execution.running import available_threads

Kind = Literal["process", "ray", "inline"]


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
    device: DeviceKind = "auto"
    """What tasks compute on, as `Devices` says; for kind `ray` its own settings say it."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise InvalidInputError(f"{self.workers} workers do nothing", "give at least one")


def open_executor(
    settings: ExecutorSettings,
    threads: int | None,
    log_path: Path | None,
    environment: Mapping[str, str] | None = None,
) -> Executor:
    """Give an executor; it starts no worker before the first task.

    Args:
        settings: which one.
        threads: CPU threads of each worker process; this machine's, shared out, when None.
        log_path: where worker processes write what they print.
        environment: variables of worker processes beside those of this one.

    Raises:
        UsageError: Ray is asked for and not installed.
    """
    if settings.kind == "inline":
        return InlineExecutor(Devices(settings.device))
    if settings.kind == "ray":
        return _ray_executor(settings)
    share = threads or max(1, available_threads() // settings.workers)
    variables = {**(environment or {}), DEVICE_VARIABLE: settings.device}
    executors = [
        ProcessExecutor(threads=share, log_path=log_path, environment=variables) for _ in range(settings.workers)
    ]
    return executors[0] if len(executors) == 1 else PooledExecutor(executors)


def _ray_executor(settings: ExecutorSettings) -> Executor:
    try:
        # An extra, and a second of loading.
        from hagd.execution.ray.executor import RayExecutor  # noqa: PLC0415
    except ImportError as error:
        raise UsageError(f"Ray cannot be loaded: {error}", "pip install 'hagd[ray]'") from error
    return RayExecutor(settings.ray or RaySettings(workers=settings.workers))
