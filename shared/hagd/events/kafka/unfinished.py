"""What a topic of work holds that its group has not finished, as an observer sees it: what it has not committed.

Of these a few may be finished, namely those behind the first that is not.
"""

from collections.abc import Sequence
from contextlib import closing
from typing import Any

from kafka import KafkaAdminClient

from hagd.events.kafka.connection import connect
from hagd.events.kafka.failures import translated
from hagd.events.kafka.groups import committed, groups_of
from hagd.events.kafka.reader import TopicReader
from hagd.events.kafka.settings import KafkaSettings
from hagd.events.log import Record, advance

_PAGE = 1000


def unfinished_events(settings: KafkaSettings, reader: TopicReader, topics: Sequence[str], limit: int) -> list[Record]:
    """Give at most `limit` events of each topic and its retry topics; a topic that is not there has none.

    Raises:
        UnavailableError: the cluster does not answer, or refuses.
    """
    if not topics:
        return []
    # The type checker knows an older release of this class.
    client: Any = KafkaAdminClient
    with translated(settings.servers), closing(connect(client, settings)) as admin:
        there = {topic["name"] for topic in admin.describe_topics()}
        done = {topic: committed(admin, settings.group_prefix, topic, there) for topic in topics}
    found: list[Record] = []
    for topic in topics:
        for name in [name for names in groups_of(topic).values() for name in names if name in there]:
            position = {place.partition: offset for place, offset in done[topic].items() if place.topic == name}
            left = limit
            while left > 0 and (page := reader.read(name, position, min(left, _PAGE))):
                found += page
                left -= len(page)
                position = advance(position, page)
    return found
