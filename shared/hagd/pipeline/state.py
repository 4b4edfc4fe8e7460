"""What is known of a run, as plain values for a person, a command line or a server to show."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hagd.artifacts.reference import ArtifactRef, refs_from_json, refs_to_json
from hagd.errors import CancelledError, HagdError
from hagd.execution.wire import Failure, error_of
from hagd.pipeline.request import Request

StageStatus = Literal["pending", "running", "done", "cached", "stopped"]
OutcomeStatus = Literal["verified", "refuted", "no claim", "failed", "cancelled"]


@dataclass(frozen=True)
class StageState:
    """One stage of a run."""

    stage_id: str
    status: StageStatus
    """`cached`: the result was there already, nothing was computed for this run. `stopped`: the run ended, failed or
    cancelled, while the stage was at work for it."""
    task_key: str = ""
    outputs: Mapping[str, ArtifactRef] = field(default_factory=dict[str, ArtifactRef])
    seconds: float = 0.0
    """What the computation took when it was made."""
    peak_rss_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "stage_id": self.stage_id,
            "status": self.status,
            "task_key": self.task_key,
            "outputs": refs_to_json(self.outputs),
            "seconds": self.seconds,
            "peak_rss_bytes": self.peak_rss_bytes,
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "StageState":
        return StageState(
            value["stage_id"],
            value["status"],
            value["task_key"],
            refs_from_json(value["outputs"]),
            value["seconds"],
            value["peak_rss_bytes"],
        )


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    status: OutcomeStatus
    stage_id: str = ""
    """The stage that ended the run, when one did."""
    failure: Failure | None = None

    def to_json(self) -> dict[str, Any]:
        failure = self.failure.to_json() if self.failure else None
        return {"status": self.status, "stage_id": self.stage_id, "failure": failure}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Outcome":
        failure = Failure.from_json(value["failure"]) if value["failure"] else None
        return Outcome(value["status"], value["stage_id"], failure)


@dataclass(frozen=True)
class Standing:
    """Whether anybody waits for a run, as the names of its objects tell."""

    exists: bool
    generation: int
    ended: bool
    """The latest generation has an outcome."""
    cancel_requested: bool
    """For the latest generation."""


@dataclass(frozen=True)
class RunState:
    """A run as of now."""

    run_id: str
    request: Request
    generation: int
    stages: tuple[StageState, ...]
    outcome: Outcome | None
    """None while the run goes on, or was interrupted and can be resumed."""
    cancel_requested: bool = False

    @property
    def outputs(self) -> dict[str, ArtifactRef]:
        """Give `{role: reference}` over all inputs and finished stages; a later stage wins."""
        merged = dict(self.request.inputs)
        for stage in self.stages:
            merged.update(stage.outputs)
        return merged

    def raise_for_failure(self) -> None:
        """Raise what ended the run, if it failed or was cancelled.

        Raises:
            HagdError: the error of the stage, of its own class.
            CancelledError: somebody cancelled the run.
        """
        if self.outcome is None:
            return
        if self.outcome.status == "cancelled":
            raise CancelledError(f"run {self.run_id[:12]} was cancelled", "issue the same command to go on")
        if self.outcome.failure is not None:
            raise error_of(self.outcome.failure)

    @property
    def error(self) -> HagdError | None:
        """Give the error of a failed run, or None."""
        return error_of(self.outcome.failure) if self.outcome and self.outcome.failure else None
