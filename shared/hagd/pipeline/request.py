"""What a caller asks for: a plan, its inputs, and the name under which the same request is the same run."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import rfc8785

from hagd.artifacts.reference import ArtifactRef, refs_from_json, refs_to_json
from hagd.errors import InvalidInputError
from hagd.events.envelope import PlanEntry, is_name
from hagd.events.topics import LANES, Lane

__all__ = ["PlanEntry", "Request", "run_id_of"]


@dataclass(frozen=True)
class Request:
    """One request for a run; the same principal and request id always name the same run."""

    principal: str
    request_id: str
    plan: tuple[PlanEntry, ...]
    inputs: Mapping[str, ArtifactRef] = field(default_factory=dict[str, ArtifactRef])
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    """Free text for people; no part of the identity of the run."""
    lane: Lane = "interactive"
    """What waits behind what; no part of the identity either."""

    def __post_init__(self) -> None:
        for name, value in (("principal", self.principal), ("request id", self.request_id)):
            if not is_name(value):
                raise InvalidInputError(
                    f"{value!r} cannot be a {name}",
                    "use lower-case letters, digits, '_', '-' and single '.', starting with a letter or digit",
                )
        if self.lane not in LANES:
            raise InvalidInputError(f"{self.lane!r} is no lane", f"the lanes are {', '.join(LANES)}")
        if not self.plan:
            raise InvalidInputError("the plan names no stage", "name at least one")

    def to_json(self) -> dict[str, Any]:
        return {
            "principal": self.principal,
            "request_id": self.request_id,
            "plan": [entry.to_json() for entry in self.plan],
            "inputs": refs_to_json(self.inputs),
            "labels": dict(self.labels),
            "lane": self.lane,
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Request":
        """Read what `to_json` gave.

        Raises:
            InvalidInputError: a field is missing or malformed.
        """
        try:
            return Request(
                value["principal"],
                value["request_id"],
                tuple(PlanEntry.from_json(entry) for entry in value["plan"]),
                refs_from_json(value["inputs"]),
                value.get("labels", {}),
                value.get("lane", "interactive"),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise InvalidInputError(f"not a request: {type(error).__name__}: {error}") from error


def run_id_of(principal: str, request_id: str) -> str:
    """Give sha256 of who asks and the name they gave the request."""
    return hashlib.sha256(rfc8785.dumps([principal, request_id])).hexdigest()
