"""What an error of Ray means for a task."""

import re
from collections.abc import Mapping
from typing import Final

import ray.exceptions

from hagd.errors import HagdError, UnavailableError, WorkerDiedError

_KILLED: Final = "a kill from outside is often a lack of memory"
_LOST: Final = "a node or its connection may be lost; see `ray status`"
_HINTS: Final[Mapping[type[Exception], str]] = {
    ray.exceptions.OutOfMemoryError: "let a worker reserve more memory, so that fewer share a node",
    ray.exceptions.NodeDiedError: _LOST,
    ray.exceptions.ActorUnavailableError: _LOST,
    ray.exceptions.ActorDiedError: _KILLED,
    ray.exceptions.WorkerCrashedError: _KILLED,
}
"""The errors by which Ray says that a process ended; all others are about the cluster."""
_KNOWN: Final = (
    (re.compile(r"low on memory|out of memory error|OOM killed", re.IGNORECASE), "its node ran out of memory"),
    (re.compile(r"\bnode\b[^.]* (?:has died|is dead|was terminated)", re.IGNORECASE), "its node was lost"),
    (re.compile(r"connection error code 2\. End of file"), "its process was killed or crashed"),
    (re.compile(r"exits with an (exit code -?\d+)"), "its process ended with {}"),
    (re.compile(r"killed by `?ray\.kill`?"), "it was ended by its driver"),
)
_LONGEST: Final = 300


def error_of_ray(error: Exception, stage_id: str) -> HagdError:
    """Give the error of our own tree: `WorkerDiedError` for a death, else `UnavailableError`."""
    name, reason = type(error).__name__, _reason(str(error))
    for kind, hint in _HINTS.items():
        if isinstance(error, kind):
            return WorkerDiedError(f"the worker of stage {stage_id!r} is gone: {reason} ({name})", hint)
    return UnavailableError(f"Ray does not serve stage {stage_id!r}: {reason} ({name})", "see `ray status`")


def _reason(text: str) -> str:
    """Give the cause in a few words where it is known, else the beginning of the paragraphs that Ray writes."""
    for pattern, words in _KNOWN:
        found = pattern.search(text)
        if found:
            return words.format(*found.groups())
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."
