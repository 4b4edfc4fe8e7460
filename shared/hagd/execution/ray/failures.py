"""What an error of Ray means for a task."""

import re
from typing import Final

import ray.exceptions

from hagd.errors import HagdError, UnavailableError, WorkerDiedError

_DEATHS: Final = (
    ray.exceptions.ActorDiedError,
    ray.exceptions.ActorUnavailableError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.WorkerCrashedError,
)
"""The errors by which Ray says that a process ended; all others are about the cluster."""
_MORE_MEMORY: Final = "let a worker reserve more memory, so that fewer share a node"
_KILLED: Final = "a kill from outside is often a lack of memory; the worker's log lies in the folder of the Ray session"
_LOST: Final = "a node that was taken away explains it; else see `ray status`"
_KNOWN: Final = (
    (
        re.compile(r"low on memory|out of memory error|OOM killed", re.IGNORECASE),
        "its node ran out of memory",
        _MORE_MEMORY,
    ),
    (re.compile(r"\bnode\b[^.]* (?:has died|is dead|was terminated)", re.IGNORECASE), "its node was lost", _LOST),
    (re.compile(r"connection error code 2\. End of file"), "its process was killed or crashed", _KILLED),
    (re.compile(r"exits with an (exit code -?\d+)"), "its process ended with {}", _KILLED),
    (re.compile(r"killed by `?ray\.kill`?"), "it was ended by its driver", ""),
)
"""`(what Ray writes, our words, remedy)`"""
_LONGEST: Final = 300


def error_of_ray(error: Exception, stage_id: str) -> HagdError:
    """Give the error of our own tree: `WorkerDiedError` for a death, else `UnavailableError`."""
    reason, hint = _reason(str(error))
    reason = f"{reason} ({type(error).__name__})"
    if isinstance(error, _DEATHS):
        return WorkerDiedError(f"the worker of stage {stage_id!r} is gone: {reason}", hint)
    return UnavailableError(f"Ray does not serve stage {stage_id!r}: {reason}", hint)


def _reason(text: str) -> tuple[str, str]:
    """Give cause and remedy in a few words where they are known, else the beginning of what Ray writes."""
    for pattern, words, hint in _KNOWN:
        found = pattern.search(text)
        if found:
            return words.format(*found.groups()), hint
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ...", "see `ray status`"
