"""Running a stage function on a task: load inputs, call, check, store outputs, measure. Shared by all executors."""

import contextlib
import importlib
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from hagd.artifacts.document import Document
from hagd.artifacts.location import scratch_folder
from hagd.artifacts.store import ArtifactStore, get_document, put_document
from hagd.errors import CancelledError, HagdError, StageError
from hagd.execution.checkpoints import load_checkpoint, save_checkpoint
from hagd.execution.devices import CPU, Devices
from hagd.execution.executor import Task, TaskProgress, TaskResult
from hagd.pipeline.contract import StageFunction


@dataclass
class TaskContext:
    """The `StageContext` of a real task."""

    task: Task
    store: ArtifactStore
    on_progress: TaskProgress
    should_stop: Callable[[], bool]
    devices: Devices
    has_checkpoints: bool = field(default=False, init=False)
    asked_device: str = field(default=CPU, init=False)
    """Where the task computes, as far as it has asked."""
    world_size: int = field(default=1, init=False)

    def progress(self, done: float, total: float, message: str) -> None:
        if self.should_stop():
            raise CancelledError(f"stage {self.task.stage_id!r} was stopped", "issue the same command to go on")
        self.on_progress(done, total, message)

    def save_checkpoint(self, step: int, state: Document) -> None:
        self.has_checkpoints = True
        save_checkpoint(self.store, self.task.task_key, self.task.epoch, step, state)

    def load_checkpoint(self) -> tuple[int, Document] | None:
        return load_checkpoint(self.store, self.task.task_key)

    def scratch_folder(self) -> Path:
        return scratch_folder(self.store.location)

    def device(self, rank: int = 0, world_size: int = 1) -> str:
        self.asked_device, self.world_size = self.devices.of_rank(rank), world_size
        return self.asked_device


def run_task(
    task: Task,
    store: ArtifactStore,
    on_progress: TaskProgress,
    should_stop: Callable[[], bool],
    threads: int | None = None,
    devices: Devices | None = None,
) -> TaskResult:
    """Run a task in this process, on the processor unless `devices` say otherwise.

    Raises:
        CancelledError: `should_stop` became true and the stage reported progress.
        StageError: the outputs are not the ones that the stage declares.
        HagdError: whatever the stage raised.
    """
    started = time.monotonic()
    reset_peak_rss()
    function = load_function(task.run)
    if threads is not None:
        _limit_torch_threads(threads)
    context = TaskContext(task, store, on_progress, should_stop, devices or Devices())
    inputs = {role: get_document(store, ref) for role, ref in task.inputs.items()}
    documents = function(inputs, task.config, context)
    _check_roles(task, documents)
    outputs = {role: put_document(store, documents[role]) for role in task.outputs}
    seconds, verdict = time.monotonic() - started, _verdict([documents[role] for role in task.outputs])
    fingerprint = compute_fingerprint(threads, context.asked_device, context.world_size)
    return TaskResult(outputs, fingerprint, seconds, peak_rss_bytes(), context.has_checkpoints, verdict)


def load_function(path: str) -> StageFunction:
    """Import `module:function`.

    Raises:
        HagdError: there is no such function, or its module needs what is not installed.
    """
    module, _, name = path.partition(":")
    try:
        return cast(StageFunction, getattr(importlib.import_module(module), name))
    except (ImportError, AttributeError) as error:
        raise HagdError(
            f"the stage function {path} cannot be loaded: {error}", "install the extra of that stage, e.g. 'hagd[all]'"
        ) from error


def compute_fingerprint(threads: int | None, device: str = CPU, world_size: int = 1) -> dict[str, Any]:
    """Give what may change the bytes of a result though its task key is the same.

    Products in another precision, which a stage's config asks for, are in that key.
    """
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "numpy": np.__version__,
        "device": device.partition(":")[0],
        "threads": threads or 0,
        "world_size": world_size,
    }
    # Looked up, not imported: a stage that does without torch must not pay for it.
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        found |= {"torch": str(torch.__version__), "threads": int(torch.get_num_threads())}
        found["cpu_capability"] = str(torch.backends.cpu.get_cpu_capability())
        found["dtype"] = str(torch.get_default_dtype()).removeprefix("torch.")
        if device != CPU:
            found |= {"device_name": str(torch.cuda.get_device_name(device)), "cuda": str(torch.version.cuda)}
            # Whether products of float32 are taken in TF32.
            found["float32_products"] = str(torch.get_float32_matmul_precision())
    return found


def peak_rss_bytes() -> int:
    """Give the largest resident memory since the last reset, or since the start where it cannot be reset."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak_rss() -> None:
    """Let `peak_rss_bytes` begin anew, where the system can."""
    with contextlib.suppress(OSError), Path("/proc/self/clear_refs").open("w") as stream:
        stream.write("5")


def _limit_torch_threads(threads: int) -> None:
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def _check_roles(task: Task, documents: Mapping[str, Document]) -> None:
    if set(documents) != set(task.outputs):
        raise StageError(
            f"stage {task.stage_id!r} gave {sorted(documents)} where it declares {sorted(task.outputs)}",
            "this is a defect of the stage",
        )


def _verdict(documents: Iterable[Document]) -> str:
    found = (document.content.get("data") for document in documents)
    texts = (data.get("verdict") for data in found if isinstance(data, dict))
    return next((text for text in texts if isinstance(text, str)), "")


def available_threads() -> int:
    """Give how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
