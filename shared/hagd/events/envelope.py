"""What travels through the log: an event that names its run, the whole plan, and references instead of data.

The envelope carries the plan, so that a stage needs to know no other stage. Its id is a function of what it asks
for, so that an event that is sent twice is one event.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import rfc8785

from hagd.artifacts.reference import ArtifactRef, refs_from_json, refs_to_json
from hagd.errors import HagdError, InvalidInputError, UnservedVersionError
from hagd.events.topics import LANES, Lane
from hagd.telemetry import traceparent as trace_context

SCHEMA_VERSION: Final = 1
_MAX_PART: Final = 32
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,199}")
MAX_EVENT_BYTES: Final = 1 << 20
MAX_REQUEST_BYTES: Final = MAX_EVENT_BYTES - (64 << 10)
"""What starts a run leaves room for what stages and failures add to it on its way."""


@dataclass(frozen=True)
class PlanEntry:
    """One stage of a run."""

    stage_id: str
    semantics_version: int
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def to_json(self) -> dict[str, Any]:
        return {
            "stage_id": self.stage_id,
            "semantics_version": self.semantics_version,
            "config": dict(self.config),
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "PlanEntry":
        return PlanEntry(value["stage_id"], value["semantics_version"], value["config"])


@dataclass(frozen=True)
class Envelope:
    """One event."""

    id: str
    run_id: str
    principal: str
    """Who asked for the run."""
    generation: int
    """How often the run was opened again; an event of an earlier generation is stale."""
    stage_index: int
    """The place in `plan` that the event is about."""
    plan: tuple[PlanEntry, ...]
    inputs: Mapping[str, ArtifactRef]
    data: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What a fact tells beyond the above."""
    schema_version: int = SCHEMA_VERSION
    lane: Lane = "interactive"
    part: str = ""
    """Which part of a divided stage is asked for, see `hagd.pipeline.work`; empty: the whole."""
    traceparent: str = ""
    """The trace that the event is part of, W3C; no part of any key or id, and empty where nobody traces."""

    @property
    def trace(self) -> str:
        """Give the trace context of the event; that of its run when it came without one."""
        return self.traceparent or trace_context.of_run(self.run_id)

    def encode(self) -> bytes:
        """Serialise as RFC 8785 JSON.

        Raises:
            InvalidInputError: the event is larger than 1 MiB, or holds what JSON cannot.
        """
        content: dict[str, Any] = {
            "id": self.id,
            "run_id": self.run_id,
            "principal": self.principal,
            "generation": self.generation,
            "stage_index": self.stage_index,
            "plan": [entry.to_json() for entry in self.plan],
            "inputs": refs_to_json(self.inputs),
            "data": dict(self.data),
            "schema_version": self.schema_version,
            "lane": self.lane,
            "part": self.part,
        }
        if self.traceparent:
            content[trace_context.HEADER] = self.traceparent
        try:
            data = rfc8785.dumps(content)
        except (rfc8785.CanonicalizationError, UnicodeError) as error:
            raise InvalidInputError(f"the event cannot be written as JSON: {error}") from error
        if len(data) > MAX_EVENT_BYTES:
            raise InvalidInputError(f"the event has {len(data)} bytes, at most {MAX_EVENT_BYTES} are carried")
        return data

    def shortened(self) -> "Envelope":
        """Give the event as it is where it can be carried, else with no more of its plan than the stage it is about.

        For what must be told of an event, however much of the room its writer has filled.
        """
        try:
            self.encode()
        except InvalidInputError:
            plan = (replace(self.plan[self.stage_index], config={}),)
            return replace(self, plan=plan, stage_index=0, inputs={})
        return self

    def carried(self) -> "Envelope":
        """Give the event as whoever reads it will have it.

        Raises:
            InvalidInputError: it cannot be written, or not once more by its reader: RFC 8785 writes large floats as
                whole numbers, of which it takes none beyond 2**53.
        """
        return Envelope.decode(self.encode())

    @staticmethod
    def decode(data: bytes) -> "Envelope":
        """Read what `encode` wrote; fields that a newer writer added are ignored.

        What is read can be written again, so that whoever works it off meets no number or name that nobody expected.

        Raises:
            InvalidInputError: the bytes are no event.
            UnservedVersionError: they are one of a newer version, which cannot be read as one of this.
        """
        value: Any = None
        try:
            value = json.loads(data)
            read = Envelope(
                id=value["id"],
                run_id=value["run_id"],
                principal=value["principal"],
                generation=value["generation"],
                stage_index=value["stage_index"],
                plan=tuple(PlanEntry.from_json(entry) for entry in value["plan"]),
                inputs=refs_from_json(value["inputs"]),
                data=value.get("data", {}),
                schema_version=value["schema_version"],
                lane=value.get("lane", "interactive"),
                part=value.get("part", ""),
                traceparent=trace_context.checked(value.get(trace_context.HEADER)),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _unreadable(value, f"{type(error).__name__}: {error}") from error
        if wrong := _wrong_fields(read):
            raise _unreadable(value, f"{', '.join(wrong)} cannot be so")
        # NaN, integers that other readers would round, halves of surrogate pairs: no canonical JSON holds them.
        read.encode()
        return read


def _unreadable(value: Any, reason: str) -> HagdError:
    """Tell an event of a newer version, which waits for a newer reader, from what is none."""
    version = value.get("schema_version") if isinstance(value, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        return UnservedVersionError(
            f"an event of version {version} cannot be read: {reason}", "start services of the release that wrote it"
        )
    return InvalidInputError(f"not an event: {reason}")


def _wrong_fields(read: Envelope) -> list[str]:
    """Name the fields whose values are of another kind than they say; anybody may have written them."""
    kinds = {
        "id": (read.id, str),
        "run_id": (read.run_id, str),
        "generation": (read.generation, int),
        "stage_index": (read.stage_index, int),
        "schema_version": (read.schema_version, int),
        "data": (read.data, dict),
        "part": (read.part, str),
    }
    for number, entry in enumerate(read.plan):
        kinds[f"plan[{number}].stage_id"] = (entry.stage_id, str)
        kinds[f"plan[{number}].semantics_version"] = (entry.semantics_version, int)
        kinds[f"plan[{number}].config"] = (entry.config, dict)
    wrong = [name for name, (value, kind) in kinds.items() if not isinstance(value, kind) or isinstance(value, bool)]
    wrong += [] if read.lane in LANES else ["lane"]
    # A word or a number, which goes into every event that tells of this one.
    wrong += ["part"] if len(str(read.part)) > _MAX_PART else []
    # They become parts of keys and of names of topics.
    wrong += [name for name in ("run_id", "principal") if not is_name(getattr(read, name))]
    wrong += [f"plan[{n}].stage_id" for n, entry in enumerate(read.plan) if not is_name(entry.stage_id)]
    return wrong or ([] if 0 <= read.stage_index < len(read.plan) else ["stage_index"])


def is_name(value: object) -> bool:
    """Say whether a value may be part of a key or of the name of a topic."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None and ".." not in value


def event_id(run_id: str, stage: str, task_key: str, generation: int) -> str:
    """Give sha256 of what makes an event one event; a repeated emission has the same id."""
    return hashlib.sha256(rfc8785.dumps([run_id, stage, task_key, generation])).hexdigest()
