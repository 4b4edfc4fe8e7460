"""Our CloudEvents and those of the SDK, which was written by others, are the same; anything else is refused."""

import json
from datetime import UTC, datetime

import pytest
from cloudevents.core.bindings import kafka
from cloudevents.core.v1.event import CloudEvent as Theirs
from hypothesis import given
from hypothesis import strategies as st

from hagd.errors import InvalidInputError
from hagd.events.cloud_event import CloudEvent, headers_of, is_cloud_event, read_cloud_event
from hagd.events.envelope import Envelope, PlanEntry
from hagd.events.topics import fact_topic

ATTRIBUTES = {"id": "7", "source": "//shop/orders", "type": "hagd.extraction.requested.v1"}
BINARY = [("ce_specversion", b"1.0"), *((f"ce_{name}", text.encode()) for name, text in ATTRIBUTES.items())]
STRUCTURED = [("content-type", b"application/cloudevents+json; charset=utf-8")]


def written_by_them(data: dict[str, object], *, structured: bool) -> tuple[list[tuple[str, bytes]], bytes]:
    event = Theirs({**ATTRIBUTES, "datacontenttype": "application/json", "subject": "ü"}, data)
    message = kafka.to_structured_event(event) if structured else kafka.to_binary_event(event)
    return list(message.headers.items()), message.value


@pytest.mark.parametrize("structured", [True, False])
def test_an_event_of_the_sdk_is_read(structured: bool) -> None:
    headers, value = written_by_them({"request_id": "é", "n": 2**40}, structured=structured)

    assert is_cloud_event(headers)
    read = read_cloud_event(headers, value)
    assert read == CloudEvent(
        "7", "//shop/orders", ATTRIBUTES["type"], "application/json", {"request_id": "é", "n": 2**40}
    )


def test_protobuf_stays_bytes_even_when_it_could_be_text() -> None:
    read = read_cloud_event([*BINARY, ("content-type", b"application/protobuf")], b"\n\x05first")

    assert (read.content_type, read.data) == ("application/protobuf", b"\n\x05first")


def test_the_sdk_reads_a_fact_and_finds_what_our_own_reader_decodes() -> None:
    fact = Envelope("ab" * 32, "cd" * 32, "somebody", 0, 0, (PlanEntry("verification", 1),), {}, {"status": "done"})
    topic = fact_topic("verification")
    headers = headers_of(topic, fact, 1_900_000_000.25)
    event = kafka.from_binary_event(kafka.KafkaMessage(dict(headers), None, fact.encode()))

    assert (event.get_id(), event.get_type(), event.get_source()) == (fact.id, topic, "/hagd")
    assert (event.get_subject(), event.get_specversion()) == (fact.run_id, "1.0")
    assert event.get_time() == datetime.fromtimestamp(1_900_000_000.25, UTC)
    assert Envelope.decode(json.dumps(event.get_data()).encode()) == fact


@pytest.mark.parametrize(
    ("headers", "value", "complaint"),
    [
        (STRUCTURED, b"[]", "no JSON object"),
        (STRUCTURED, b"{", "not JSON"),
        (STRUCTURED, b"\xff", "not JSON"),
        (STRUCTURED, b"[" * 10**5, "not JSON: RecursionError"),
        (STRUCTURED, b'{"specversion": "1.0", "x": NaN}', "it holds NaN"),
        (STRUCTURED, b'{"specversion": "1.0"}', "its id is missing"),
        (STRUCTURED, json.dumps({**ATTRIBUTES, "specversion": "1.0", "id": ""}).encode(), "its id is missing"),
        (STRUCTURED, json.dumps({**ATTRIBUTES, "specversion": "0.3"}).encode(), "version '0.3'"),
        (STRUCTURED, json.dumps({**ATTRIBUTES, "specversion": "1.0", "datacontenttype": "text/xml"}).encode(), "xml"),
        ([("ce_specversion", b"1.0")], b"{}", "its id is missing"),
        ([*BINARY, ("ce_source", b"x" * 1025)], b"{}", "its source is missing, empty or longer than 1024"),
    ],
)
def test_what_is_no_cloud_event_is_refused_with_the_reason(
    headers: list[tuple[str, bytes]], value: bytes, complaint: str
) -> None:
    assert is_cloud_event(headers)
    with pytest.raises(InvalidInputError, match=complaint):
        read_cloud_event(headers, value)


def test_our_own_events_on_work_topics_claim_to_be_none() -> None:
    assert not is_cloud_event([("hagd-id", b"x"), ("content-type", b"application/json")])


@given(
    st.lists(st.tuples(st.sampled_from(["ce_id", "ce_type", "content-type", "CE_SpecVersion", "x"]), st.binary())),
    st.binary(),
)
def test_no_record_raises_anything_but_that_it_is_none(headers: list[tuple[str, bytes]], value: bytes) -> None:
    try:
        read_cloud_event(headers, value)
    except InvalidInputError as error:
        assert error.message
