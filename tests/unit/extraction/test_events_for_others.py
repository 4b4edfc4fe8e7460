"""What the pages promise to other systems about events is what the code reads and writes."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from hagd.errors import HagdError
from hagd.events.topics import ENTRY_STAGE, RUN_FAILED, dead_letter_topic, fact_topic
from hagd.extraction.plan import build_plan, plan_of_settings
from hagd.extraction.schemas import fact_schema, request_schema
from hagd.extraction.settings import STAGES, Settings
from hagd.pipeline.intake import REQUESTED, RequestReader
from hagd.rpc.codec import read_request
from hagd.rpc.intake import request_readers
from unit.pipeline.test_intake import as_json
from unit.pipeline.test_loop import World, request, trouble
from unit.pipeline.test_router import sent

ROOT = Path(__file__).parents[3]
HOW_TO = (ROOT / "docs" / "how-to" / "connect-a-producer.md").read_text()
REFERENCE = (ROOT / "docs" / "reference" / "events.md").read_text()
READER = RequestReader(plan_of_settings, read_request)
SETTINGS = {"task": "modular-addition", "modulus": 113, "sizes": [49, 70], "overrides": {"transcoder": {"seed": 3}}}
PLAN = [{"stage_id": "subject", "semantics_version": 1, "config": {}}]
REF = {"sha256": "a" * 64, "bytes": 7, "media_type": "x/y"}


@pytest.mark.parametrize("example", ["python-client/submit.py", "go-client/main.go"])
def test_the_page_shows_the_clients_as_they_are_executed(example: str) -> None:
    assert f"\n{(ROOT / 'examples' / example).read_text()}```" in HOW_TO


def test_the_page_names_every_topic_of_facts() -> None:
    topics = {fact_topic(stage) for stage in STAGES} | {RUN_FAILED, dead_letter_topic(ENTRY_STAGE), REQUESTED}

    assert {topic for topic in topics if f"`{topic}`" not in REFERENCE} == set()


def test_settings_that_are_sent_make_the_plan_of_the_command_line() -> None:
    given = Settings(task="modular-addition", modulus=113, sizes=(49, 70), overrides={"transcoder": {"seed": 3}})

    assert plan_of_settings(SETTINGS, {}) == build_plan(given)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"modulos": 113}, "there is no setting 'modulos' to send"),
        ({"task": "ioi", "prompts": "/etc/passwd"}, "there is no setting 'prompts' to send"),
        ({"task": 5}, "task: Input should be a valid string"),
        ({"task": "modular-addition", "sizes": ["7"]}, r"sizes.0: Input should be a valid integer"),
        ({"task": "modular-addition", "modulus": True}, "modulus: Input should be a valid integer"),
        ({"task": "nobody-knows"}, "there is no task 'nobody-knows'"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(HagdError, match=complaint):
        plan_of_settings(settings, {})


def test_a_log_is_opened_with_readers_for_all_lanes() -> None:
    readers = request_readers(plan_of_settings)
    record = as_json({"request_id": "a", "settings": SETTINGS})

    assert set(readers) == {REQUESTED, "hagd.extraction.requested.batch.v1"}
    assert len({reader(*record).encode() for reader in readers.values()}) == 1


@pytest.mark.parametrize(
    ("data", "taken"),
    [
        ({"request_id": "a", "settings": SETTINGS}, True),
        ({"request_id": "a", "plan": PLAN, "inputs": {"model": REF}, "labels": {"x": "y"}, "lane": "batch"}, True),
        ({"request_id": "A", "settings": SETTINGS}, False),
        ({"request_id": "a", "plan": []}, False),
        ({"request_id": "a", "plan": [{"stage_id": "subject"}]}, False),
        ({"request_id": "a", "settings": {"modulos": 113}}, False),
        ({"request_id": "a", "settings": SETTINGS, "lane": "fast"}, False),
        ({"request_id": "a", "settings": SETTINGS, "novel": 1}, False),
        ({"request_id": "a", "plan": PLAN, "inputs": {"model": {**REF, "sha256": "a"}}}, False),
        ({"settings": SETTINGS}, False),
    ],
)
def test_the_schema_of_requests_and_their_reader_agree(data: dict[str, Any], taken: bool) -> None:
    record = as_json(data)
    try:
        READER(*record)
    except HagdError:
        assert not taken
    else:
        assert taken
    assert jsonschema.Draft202012Validator(request_schema()).is_valid(json.loads(record[1])) == taken


def test_every_fact_fits_the_schema(tmp_path: Path) -> None:
    world = World()
    for asked in (request("bad", trouble=trouble(tmp_path, "gate")), request("good"), request("good", threshold=3.0)):
        sent(world, asked)
        world.drive()
    topics = [*(fact_topic(stage) for stage in ("numbers", "total", "verdict")), RUN_FAILED]
    topics += [dead_letter_topic(name) for name in (ENTRY_STAGE, "total")]
    validator = jsonschema.Draft202012Validator(fact_schema())

    for topic in topics:
        records = world.log.read(topic)
        assert records, topic
        for record in records:
            validator.validate(json.loads(record.envelope.encode()))
