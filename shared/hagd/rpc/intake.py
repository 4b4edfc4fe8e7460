"""What a log that other systems write to is opened with: readers of requests in every encoding, for all lanes."""

from hagd.events.log import ReadRecord
from hagd.events.topics import ENTRY_STAGE, LANES, requested_topic
from hagd.pipeline.intake import PlanSettings, RequestReader
from hagd.rpc.codec import read_request


def request_readers(plan_settings: PlanSettings) -> dict[str, ReadRecord]:
    """Give `{topic: reader}` for the topics on which requests come in.

    Args:
        plan_settings: makes plans from settings; only a bootstrap knows what can.
    """
    reader = RequestReader(plan_settings, read_request)
    return {requested_topic(ENTRY_STAGE, lane): reader for lane in LANES}
