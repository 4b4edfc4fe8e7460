"""The stage contract: a stage is a function of content, and its task key names that content.

A stage is found by the entry point group `hagd.stages`, which must load without torch: it names the function
that does the work (`run`), which only a worker process imports.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import rfc8785

from hagd.artifacts.document import Document
from hagd.artifacts.reference import ArtifactRef

__all__ = ["ArtifactRef", "Config", "Sharding", "StageContext", "StageFunction", "StageSpec", "task_key"]

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

    def scratch_folder(self) -> Path:
        """Give a folder for nameless files, on the disk of the run where that is one of this machine."""
        ...

    def device(self, rank: int = 0, world_size: int = 1) -> str:
        """Give where this task computes, as torch names it: `cpu`, or `cuda:0`. What it gives is on the CPU, always.

        Args:
            rank: which of the processes that share the task asks; each has a device of its own while there are some.
            world_size: how many they are.
        """
        ...


StageFunction = Callable[[Mapping[str, Document], Config, StageContext], Mapping[str, Document]]


@dataclass(frozen=True)
class Sharding:
    """How a stage divides its task, so that many workers share it.

    A shard gets the inputs of the task and a config of its own, and its result is found again by what these contain.
    The join gets the inputs of the task, what each shard gave under `role/00000`, `role/00001` and so on, and the
    config of the task; it gives the outputs of the stage.
    """

    split: Callable[[Config], Sequence[Config]]
    """The configs of the shards, from the config of the task alone; fewer than two: the stage runs whole."""
    run: str
    """`module:function` of the `StageFunction` of a shard."""
    outputs: tuple[str, ...]
    """What a shard gives."""
    join: str
    """`module:function` of the `StageFunction` that joins."""


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
    sharding: Sharding | None = None
    estimate: str | None = None
    """`module:function` of a `StageFunction` that gives the document `estimate`: what a run on these inputs takes on
    this machine, its content as `extraction.calibration` reads it."""
    fields: Callable[[], Mapping[str, str]] = dict[str, str]
    """List the config's fields for a person, each with its default and what it is for."""


def task_key(spec: StageSpec, inputs: Mapping[str, ArtifactRef], config: Config) -> str:
    """Give sha256 of the RFC 8785 JSON of what determines the result."""
    return _digest(spec, spec.id, inputs, spec.resolve(config))


def shard_key(spec: StageSpec, inputs: Mapping[str, ArtifactRef], config: Config) -> str:
    """Give the key of a shard with a config that `Sharding.split` gave; no whole task has it."""
    return _digest(spec, f"{spec.id}/shard", inputs, config)


def _digest(spec: StageSpec, name: str, inputs: Mapping[str, ArtifactRef], config: Config) -> str:
    content = {
        "stage": name,
        "semantics_version": spec.semantics_version,
        "inputs": {role: inputs[role].sha256 for role in spec.inputs},
        "config": {field: value for field, value in config.items() if field not in spec.local_fields},
    }
    return hashlib.sha256(rfc8785.dumps(content)).hexdigest()
