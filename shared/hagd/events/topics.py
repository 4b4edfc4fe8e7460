"""The names of topics, all in one place."""

from typing import Final

REQUESTED: Final = "hagd.extraction.requested.v1"
PROGRESSED: Final = "hagd.stage.progressed.v1"
RUN_FAILED: Final = "hagd.run.failed.v1"
RUN_CANCELLED: Final = "hagd.run.cancelled.v1"

_FACTS: Final = {
    "transcoder": "hagd.transcoder.trained.v1",
    "coarsening": "hagd.hierarchy.built.v1",
    "traversal": "hagd.circuit.proposed.v1",
    "verification": "hagd.circuit.verified.v1",
}


def requested_topic(stage_id: str) -> str:
    """Give the topic that the loop of a stage reads."""
    return f"hagd.{stage_id}.requested.v1"


def dead_letter_topic(stage_id: str) -> str:
    """Give the topic on which requests lie that a stage gave up."""
    return f"hagd.{stage_id}.dead.v1"


def fact_topic(stage_id: str) -> str:
    """Give the topic on which a finished stage is announced to observers."""
    return _FACTS.get(stage_id, f"hagd.{stage_id}.finished.v1")
