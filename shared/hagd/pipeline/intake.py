"""What other systems write to the topic of requests, read as events of ours.

    record -> CloudEvent -> who asks -> names and sizes -> plan -> event that holds the whole request

The router does the rest. Nothing here touches log or store. An event of our own passes through as it is, but may not
hold a request: it would say by itself who asks.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Self

import rfc8785
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hagd.artifacts.reference import refs_from_json, refs_to_json
from hagd.errors import HagdError, InvalidInputError, UnservedVersionError
from hagd.events.cloud_event import JSON, PROTOBUF, CloudEvent, is_cloud_event, read_cloud_event
from hagd.events.envelope import MAX_REQUEST_BYTES, Envelope, event_id, is_name
from hagd.events.topics import ENTRY_STAGE, Lane, requested_topic
from hagd.pipeline.request import PlanEntry, Request, run_id_of

PlanSettings = Callable[[Mapping[str, Any], Mapping[str, str]], Sequence[PlanEntry]]
"""Turns settings, and other stages by their place in the plan, into a plan as the command line does."""
ReadMessage = Callable[[bytes, str], Request]
"""Reads a protobuf message that a principal sent."""

REQUESTED: Final = requested_topic(ENTRY_STAGE)
"""The topic that other systems write to, and the type of the event, whatever its lane."""
_REQUEST: Final = "request"
_RUN_ID: Final = re.compile(r"[0-9a-f]{64}")
_MAX_GENERATIONS: Final = 10_000
_MAX_STAGES: Final = 64
_MAX_ENTRIES: Final = 256
_TYPE: Final = re.compile(re.escape(REQUESTED.removesuffix("1")) + r"([1-9][0-9]{0,3})")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class StageEntry(_Strict):
    """One stage of a plan."""

    stage_id: str = Field(max_length=200)
    """The installed stage that does the work."""
    semantics_version: int = Field(ge=0, lt=2**31)
    """The version of its results that is asked for."""
    config: dict[str, Any] = Field(default_factory=dict)
    """What the stage is to do; its own documentation names the fields."""


class Reference(_Strict):
    """The name of an artifact in the store of the deployment."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)
    media_type: str = Field(max_length=200)


class ExtractionRequest(_Strict):
    """The data of a request as JSON: either `plan`, or `settings` from which the plan is made."""

    request_id: str = Field(max_length=200, pattern="^[a-z0-9][a-z0-9_.-]*$")
    """Chosen by who asks. The same id with the same body is the same run; with another body it is refused."""
    plan: list[StageEntry] | None = Field(default=None, min_length=1, max_length=_MAX_STAGES)
    """The stages in order."""
    settings: dict[str, Any] | None = None
    """What `hagd extract` takes as options."""
    use: dict[str, str] = Field(default_factory=dict, max_length=_MAX_STAGES)
    """With `settings`: other stages, by their place in the plan."""
    inputs: dict[str, Reference] = Field(default_factory=dict, max_length=_MAX_ENTRIES)
    """Artifacts that the plan starts from, by role."""
    labels: dict[str, str] = Field(default_factory=dict, max_length=_MAX_ENTRIES)
    """Free text for people; no part of what makes the run this run."""
    lane: Lane = "interactive"
    """`batch` lets interactive runs go first."""

    @model_validator(mode="after")
    def _has_one_kind_of_plan(self) -> Self:
        if (self.plan is None) == (self.settings is None):
            raise ValueError("give either plan or settings")
        if self.use and self.settings is None:
            raise ValueError("use goes with settings; a plan names its stages itself")
        return self


def principal_of(source: str) -> str:
    """Give the principal for the source of an event, where nothing else tells who wrote it.

    A source that is a name stands for itself. Any other, such as a URI, becomes its letters and digits with a digest
    behind, so that no two sources are one principal.
    """
    if is_name(source):
        return source
    readable = re.sub(r"[^a-z0-9]+", "-", source.lower()).strip("-")[:100]
    return f"{readable or 'source'}-{sha256(source.encode(errors='surrogatepass')).hexdigest()[:16]}"


@dataclass(frozen=True)
class RequestReader:
    """A `ReadRecord` for the topic of requests."""

    plan_settings: PlanSettings
    read_message: ReadMessage
    identify: Callable[[str], str] = principal_of
    """From the source of an event to the principal who asks. Errors of ours refuse the event."""

    def __call__(self, headers: Sequence[tuple[str, bytes]], value: bytes) -> Envelope:
        """Read a record.

        Raises:
            InvalidInputError: it is no event and no request.
            UnservedVersionError: it is one of a newer version.
            UsageError: its settings are refused.
        """
        if is_cloud_event(headers):
            return event_of(self._request(read_cloud_event(headers, value)))
        envelope = Envelope.decode(value)
        if holds_request(envelope):
            raise InvalidInputError("not an event: it holds a request", "write the request as a CloudEvent")
        if not _RUN_ID.fullmatch(envelope.run_id) or not 0 <= envelope.generation < _MAX_GENERATIONS:
            raise InvalidInputError("not an event: it names no run", "a run id has 64 hexadecimal digits")
        return envelope

    def _request(self, event: CloudEvent) -> Request:
        version = _TYPE.fullmatch(event.type)
        if version is None:
            raise InvalidInputError(f"not a request: an event of type {event.type!r}", f"give it the type {REQUESTED}")
        if version[1] != "1":
            raise UnservedVersionError(f"a request of type {event.type} waits", "start services of a newer release")
        principal = self.identify(event.source)
        if event.content_type == PROTOBUF and isinstance(event.data, bytes):
            request = self.read_message(event.data, principal)
        elif event.content_type == JSON:
            request = self._from_json(event.data, principal)
        else:
            raise InvalidInputError(f"not a request: {event.content_type!r}", f"send {JSON} or {PROTOBUF}")
        if len(request.plan) > _MAX_STAGES or max(len(request.inputs), len(request.labels)) > _MAX_ENTRIES:
            raise InvalidInputError(
                "not a request: too many entries",
                f"a plan has at most {_MAX_STAGES} stages, a request {_MAX_ENTRIES} inputs and labels",
            )
        return request

    def _from_json(self, data: Any, principal: str) -> Request:
        try:
            read = ExtractionRequest.model_validate(data)
        except (ValidationError, RecursionError) as error:
            raise InvalidInputError(
                f"not a request: {complaint_of(error)}", "docs/reference/events.md says what it holds"
            ) from error
        if read.plan is None:
            plan = self._planned(read.settings or {}, read.use)
        else:
            plan = [PlanEntry(entry.stage_id, entry.semantics_version, entry.config) for entry in read.plan]
        inputs = refs_from_json({role: ref.model_dump() for role, ref in read.inputs.items()})
        return Request(principal, read.request_id, tuple(plan), inputs, read.labels, read.lane)

    def _planned(self, settings: Mapping[str, Any], use: Mapping[str, str]) -> Sequence[PlanEntry]:
        try:
            return self.plan_settings(settings, use)
        except HagdError:
            raise
        except Exception as error:
            # Stages check their part of the settings; over what they did not expect they may raise anything.
            raise InvalidInputError(f"the settings make no plan: {type(error).__name__}: {error}") from error


def event_of(request: Request) -> Envelope:
    """Give the event that hands a whole request to the router; the same request always gives the same id.

    Raises:
        InvalidInputError: it is too large, or holds what JSON cannot.
    """
    content = request.to_json()
    try:
        body = rfc8785.dumps(content)
    except (rfc8785.CanonicalizationError, UnicodeError, RecursionError) as error:
        raise InvalidInputError(f"not a request: {type(error).__name__}: {error}") from error
    if len(body) > MAX_REQUEST_BYTES:
        raise InvalidInputError(
            f"the request has {len(body)} bytes, at most {MAX_REQUEST_BYTES} are taken",
            "give large inputs as artifacts",
        )
    run_id = run_id_of(request.principal, request.request_id)
    beside = {name: value for name, value in content.items() if name not in ("plan", "inputs")}
    identity = event_id(run_id, ENTRY_STAGE, sha256(body).hexdigest(), 0)
    return Envelope(
        identity, run_id, request.principal, 0, 0, request.plan, request.inputs, {_REQUEST: beside}, lane=request.lane
    ).carried()


def holds_request(envelope: Envelope) -> bool:
    """Say whether an event holds a whole request, which is not in the store yet."""
    return _REQUEST in envelope.data


def request_of(envelope: Envelope) -> Request | None:
    """Give the request that an event holds, or None: then it is in the store already."""
    beside = envelope.data.get(_REQUEST)
    if beside is None:
        return None
    plan = [entry.to_json() for entry in envelope.plan]
    return Request.from_json({**beside, "plan": plan, "inputs": refs_to_json(envelope.inputs)})


def complaint_of(error: Exception) -> str:
    """Say what is wrong with a value that does not fit a model, without quoting the value."""
    if not isinstance(error, ValidationError):
        return "nested beyond reading"
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{'.'.join(str(part) for part in first['loc']) or 'the data'}: {first['msg']}"
