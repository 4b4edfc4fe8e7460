"""The consumer groups of a topic of work, and what they have committed: what lies below it is worked off."""

import time
from collections.abc import Collection
from typing import Any, Final

from kafka.errors import CoordinatorLoadInProgressError, CoordinatorNotAvailableError, NotCoordinatorError
from kafka.structs import TopicPartition

from hagd.events.topics import RETRY_TIERS, retry_topic

_NOT_YET: Final = (CoordinatorLoadInProgressError, CoordinatorNotAvailableError, NotCoordinatorError)
"""A cluster that was just started, or asked for a group for the first time, says these for a moment."""
_PATIENCE_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 0.2


def groups_of(topic: str) -> dict[str, list[str]]:
    """Give the groups that work off a topic, each with the topics that it reads."""
    return {topic: [topic], f"{topic}.retry": [retry_topic(topic, tier) for tier in RETRY_TIERS]}


def committed(admin: Any, prefix: str, topic: str, there: Collection[str]) -> dict[TopicPartition, int]:
    """Give the offsets that the groups of a topic have committed, of those topics that are `there`.

    Args:
        admin: a connected client of the library.
        prefix: what the services put before the names of their groups.
        topic: a topic of work.
        there: the topics of the cluster.
    """
    found: dict[TopicPartition, int] = {}
    for group, worked_off in groups_of(topic).items():
        known = {*worked_off} & {*there}
        if known:
            offsets = _offsets(admin, prefix + group)
            found |= {place: it.offset for place, it in offsets.items() if place.topic in known and it.offset >= 0}
    return found


def _offsets(admin: Any, group: str) -> dict[TopicPartition, Any]:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return admin.list_group_offsets([group]).get(group, {})
        except _NOT_YET:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_LOOK_SECONDS)
