"""The stage contract: a stage is a function of content, and its task key names that content.

A stage is found by the entry point group `hagd.stages`, which must load without torch: it names the function
that does the work (`run`), which only a worker process imports.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import rfc8785

from hagd.artifacts.document import Document
from hagd.artifacts.reference import ArtifactRef

__all__ = ["ArtifactRef", "Config", "StageContext", "StageFunction", "StageSpec", "task_key"]

Config = Mapping[str, Any]


@runtime_checkable
class StageContext(Protocol):
    """What a running stage may ask of its surroundings."""

    def progress(self, done: float, total: float, message: str) -> None:
        """Report progress; cheap, may be dropped. Raises CancelledError when somebody asked to stop."""
        ...

    def save_checkpoint(self, step: int, state: Document) -> None:
        """Keep `state` so that a later attempt at the same task can go on from `step`."""
        ...

    def load_checkpoint(self) -> tuple[int, Document] | None:
        """Give the latest checkpoint of this task, if any attempt left one."""
        ...


StageFunction = Callable[[Mapping[str, Document], Config, StageContext], Mapping[str, Document]]


@dataclass(frozen=True)
class StageSpec:
    """The light description of a stage, loadable in any process."""

    id: str
    semantics_version: int
    """Bumped by hand when the same input would give another result; guarded by golden digests."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    run: str
    """`module:function` of a `StageFunction`."""
    resolve: Callable[[Config], dict[str, Any]]
    """Validate a config and give the fields that affect the output; fields at their default are left out."""
    local_fields: frozenset[str] = field(default_factory=frozenset[str])
    """Config fields passed to `run` but kept out of the key: paths, devices, threads."""
    title: str = ""


def task_key(spec: StageSpec, inputs: Mapping[str, ArtifactRef], config: Config) -> str:
    """Give sha256 of the RFC 8785 JSON of what determines the result."""
    content = {
        "stage": spec.id,
        "semantics_version": spec.semantics_version,
        "inputs": {role: inputs[role].sha256 for role in spec.inputs},
        "config": {name: value for name, value in spec.resolve(config).items() if name not in spec.local_fields},
    }
    return hashlib.sha256(rfc8785.dumps(content)).hexdigest()
