"""The port that runs one task and gives references to its outputs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from hagd.artifacts.reference import ArtifactRef
from hagd.artifacts.store import ArtifactStore

TaskProgress = Callable[[float, float, str], None]
"""`(done, total, message)`"""


@dataclass(frozen=True)
class Task:
    """All that a worker needs to know."""

    stage_id: str
    task_key: str
    epoch: int
    """The epoch of the lease under which the task runs; checkpoints are kept under it."""
    run: str
    """`module:function` of a `StageFunction`."""
    config: Mapping[str, Any]
    inputs: Mapping[str, ArtifactRef]
    outputs: tuple[str, ...]
    """The roles that the function must give, no more and no fewer."""
    run_id: str = ""
    """The run that asked first, for log lines."""
    traceparent: str = ""
    """The span under which the task runs, W3C; empty where nobody traces."""


@dataclass(frozen=True)
class TaskResult:
    """What a task gave, and what it took."""

    outputs: Mapping[str, ArtifactRef]
    compute_fingerprint: Mapping[str, Any]
    """Bytes are promised equal only between equal fingerprints."""
    seconds: float
    peak_rss_bytes: int
    has_checkpoints: bool
    """Whether it kept checkpoints, which nobody needs any more."""
    verdict: str = ""
    """What an output says of the behaviour as `content["data"]["verdict"]`; empty where none does."""


class Executor(Protocol):
    """Runs tasks, one per call; `execute` blocks."""

    def execute(
        self, task: Task, store: ArtifactStore, on_progress: TaskProgress, should_stop: Callable[[], bool]
    ) -> TaskResult:
        """Run the stage function, store its outputs, give their references.

        Raises:
            CancelledError: `should_stop` became true.
            WorkerDiedError: the worker ended without an answer.
            HagdError: whatever the stage raised; another exception arrives as kind `internal`.
        """
        ...

    def close(self) -> None:
        """End the workers."""
        ...
