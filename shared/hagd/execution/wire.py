"""How tasks, results and errors cross a process border: length-prefixed JSON, never pickle."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from hagd import errors
from hagd.artifacts.reference import refs_from_json, refs_to_json
from hagd.errors import HagdError
from hagd.execution.executor import Task, TaskResult

MAX_FRAME_BYTES: Final = 1 << 24
MAX_TEXT: Final = 4000
"""Characters of a message: it may quote what somebody sent."""


@dataclass(frozen=True)
class Failure:
    """An error as data."""

    kind: str
    message: str
    hint: str = ""

    def to_json(self) -> dict[str, str]:
        return {"kind": self.kind, "message": self.message, "hint": self.hint}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Failure":
        return Failure(str(value["kind"]), str(value["message"]), str(value["hint"]))


def failure_of(error: BaseException) -> Failure:
    """Give an error as data, cut where it is too long to travel; one from outside the tree becomes kind `internal`."""
    if isinstance(error, HagdError):
        return Failure(error.kind, _text(error.message), _text(error.hint))
    return Failure(
        "internal", _text(f"{type(error).__name__}: {error}"), "this is a defect of the stage; see the worker log"
    )


def _text(told: str) -> str:
    """Give what can travel of a text: not too much, and no halves of surrogate pairs, as names of files have them."""
    return told[:MAX_TEXT].encode(errors="replace").decode()


def error_of(failure: Failure) -> HagdError:
    """Give the error that `failure_of` described, of its own class."""
    error = _CLASSES.get(failure.kind, HagdError)(failure.message, failure.hint)
    if error.kind != failure.kind:
        # A kind from a newer release keeps its name although its class is unknown here.
        error.__dict__["kind"] = failure.kind
    return error


def _classes(base: type[HagdError]) -> dict[str, type[HagdError]]:
    found = {base.kind: base}
    for child in base.__subclasses__():
        if child.__module__ == errors.__name__:
            found |= _classes(child)
    return found


_CLASSES: Final = _classes(HagdError)


def task_to_json(task: Task) -> dict[str, Any]:
    """Give a task as JSON."""
    return {
        "stage_id": task.stage_id,
        "task_key": task.task_key,
        "epoch": task.epoch,
        "run": task.run,
        "config": dict(task.config),
        "inputs": refs_to_json(task.inputs),
        "outputs": list(task.outputs),
        "run_id": task.run_id,
        "traceparent": task.traceparent,
    }


def task_from_json(value: Mapping[str, Any]) -> Task:
    """Read what `task_to_json` gave."""
    return Task(
        value["stage_id"],
        value["task_key"],
        value["epoch"],
        value["run"],
        value["config"],
        refs_from_json(value["inputs"]),
        tuple(value["outputs"]),
        value["run_id"],
        value["traceparent"],
    )


def result_to_json(result: TaskResult) -> dict[str, Any]:
    """Give a result as JSON."""
    return {
        "outputs": refs_to_json(result.outputs),
        "compute_fingerprint": dict(result.compute_fingerprint),
        "seconds": result.seconds,
        "peak_rss_bytes": result.peak_rss_bytes,
        "has_checkpoints": result.has_checkpoints,
        "verdict": result.verdict,
    }


def result_from_json(value: Mapping[str, Any]) -> TaskResult:
    """Read what `result_to_json` gave."""
    return TaskResult(
        refs_from_json(value["outputs"]),
        value["compute_fingerprint"],
        value["seconds"],
        value["peak_rss_bytes"],
        value["has_checkpoints"],
        value["verdict"],
    )


def write_frame(stream: BinaryIO, message: Mapping[str, Any]) -> None:
    """Write four bytes of length, most significant first, and the message as JSON."""
    data = json.dumps(message, allow_nan=False).encode()
    stream.write(len(data).to_bytes(4, "big") + data)
    stream.flush()


def read_frame(stream: BinaryIO) -> dict[str, Any] | None:
    """Read what `write_frame` wrote; None when the other side has gone or talks nonsense."""
    head = stream.read(4)
    size = int.from_bytes(head, "big")
    if len(head) < 4 or size > MAX_FRAME_BYTES:
        return None
    data = stream.read(size)
    try:
        return json.loads(data) if len(data) == size else None
    except ValueError:
        return None
