"""The names of topics, all in one place."""

from collections.abc import Mapping
from typing import Final, Literal

Lane = Literal["interactive", "batch"]
"""Who waits: a person, or nobody. Work of the first lane goes first."""
LANES: Final[tuple[Lane, ...]] = ("interactive", "batch")
ENTRY_STAGE: Final = "extraction"
"""Under this name, as if it were a stage, requests come in and are handed to the first stage of their plan."""
PROGRESSED: Final = "hagd.stage.progressed.v1"
PASSING_SECONDS: Final = 24 * 3600.0
"""How long progress is kept, because nobody asks for it later."""
RUN_FAILED: Final = "hagd.run.failed.v1"
RUN_CANCELLED: Final = "hagd.run.cancelled.v1"

RETRY_TIERS: Final[Mapping[float, str]] = {10.0: "10s", 120.0: "2m", 1800.0: "30m"}
"""Delays in seconds, shortest first, for which a log over a network keeps topics of their own."""

_LANE_PARTS: Final[Mapping[Lane, str]] = {"interactive": "", "batch": ".batch"}
_FACTS: Final = {
    "transcoder": "hagd.transcoder.trained.v1",
    "coarsening": "hagd.hierarchy.built.v1",
    "traversal": "hagd.circuit.proposed.v1",
    "verification": "hagd.circuit.verified.v1",
}


def requested_topic(stage_id: str, lane: Lane = "interactive") -> str:
    """Give the topic of a lane that the loop of a stage reads."""
    return f"hagd.{stage_id}.requested{_LANE_PARTS[lane]}.v1"


def stage_of(topic: str) -> str:
    """Give the stage whose loop reads a topic that `requested_topic` names."""
    return topic.removeprefix("hagd.").rpartition(".requested")[0]


def dead_letter_topic(stage_id: str) -> str:
    """Give the topic on which requests lie that a stage gave up."""
    return f"hagd.{stage_id}.dead.v1"


def fact_topic(stage_id: str) -> str:
    """Give the topic on which a finished stage is announced to observers."""
    return _FACTS.get(stage_id, f"hagd.{stage_id}.finished.v1")


def is_work_topic(topic: str) -> bool:
    """Say whether the events of a topic are worked off, and not only observed."""
    return any(topic.endswith(f".requested{part}.v1") for part in _LANE_PARTS.values())


def retry_topic(topic: str, tier: float) -> str:
    """Give the topic in which events of `topic` wait at least `tier` seconds, one of `RETRY_TIERS`."""
    return f"{topic}.retry.{RETRY_TIERS[tier]}"


def is_retry_topic(topic: str) -> bool:
    """Say whether a topic is one that `retry_topic` names."""
    return any(topic.endswith(f".retry.{name}") for name in RETRY_TIERS.values())


def unreadable_topic(topic: str) -> str:
    """Give the topic that keeps, byte for byte, what was sent to `topic` and is no event."""
    return f"{topic}.unreadable"
