"""Trimming topics of work: what everybody has worked off is deleted, and nothing else ever is.

Topics of work have no retention, because work must not be dropped for its age. So somebody has to delete what lies
below the lowest offset that the group of a topic has committed; a topic without a group keeps everything.
"""

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

from kafka import KafkaAdminClient
from kafka.structs import TopicPartition

from hagd.events.kafka.connection import connect
from hagd.events.kafka.failures import translated
from hagd.events.kafka.groups import committed
from hagd.events.kafka.settings import KafkaSettings
from hagd.events.topics import LANES, requested_topic

_EARLIEST: Final = -2
"""Asks for the first offset of a partition, in the protocol of Kafka."""


@dataclass(frozen=True)
class Trimmed:
    """What was deleted of one partition."""

    topic: str
    partition: int
    first_offset: int
    """The lowest offset that is left."""
    deleted: int


def trim_topics(settings: KafkaSettings, stage_ids: Iterable[str], *, dry_run: bool = False) -> list[Trimmed]:
    """Delete what is worked off of the topics of some stages; give the partitions of which anything went.

    Raises:
        UnavailableError: the cluster does not answer, or refuses.
    """
    topics = [requested_topic(stage_id, lane) for stage_id in stage_ids for lane in LANES]
    # The type checker knows an older release of this class.
    client: Any = KafkaAdminClient
    with translated(settings.servers), closing(connect(client, settings)) as admin:
        there = {topic["name"] for topic in admin.describe_topics()}
        wanted: dict[TopicPartition, int] = {}
        for topic in topics:
            wanted |= committed(admin, settings.group_prefix, topic, there)
        first = _first_offsets(admin, wanted)
        found = [
            Trimmed(place.topic, place.partition, offset, offset - first[place])
            for place, offset in sorted(wanted.items())
            if offset > first[place]
        ]
        if found and not dry_run:
            admin.delete_records({TopicPartition(it.topic, it.partition): it.first_offset for it in found})
    return found


def _first_offsets(admin: Any, places: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
    asked = dict.fromkeys(places, _EARLIEST)
    return {place: it.offset for place, it in admin.list_partition_offsets(asked).items()} if asked else {}
