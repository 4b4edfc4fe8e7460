"""Events: what they carry, and why a repeated one is the same one."""

import json
from dataclasses import replace

import pytest

from hagd.artifacts.reference import ArtifactRef
from hagd.errors import InvalidInputError
from hagd.events.envelope import MAX_EVENT_BYTES, Envelope, PlanEntry, event_id
from hagd.events.topics import fact_topic, requested_topic
from hagd.telemetry.traceparent import of_run


def envelope(data: dict[str, object]) -> Envelope:
    plan = (PlanEntry("a", 3, {"x": 0.5}), PlanEntry("b", 5))
    return Envelope("id", "run", "somebody", 2, 1, plan, {"in": ArtifactRef("0" * 64, 7, "x/y")}, data)


def test_an_event_survives_encoding() -> None:
    assert Envelope.decode(envelope({"note": "é"}).encode()) == envelope({"note": "é"})


def test_fields_of_a_newer_writer_are_passed_over() -> None:
    value = {**json.loads(envelope({}).encode()), "novelty": 1, "schema_version": 2}
    assert Envelope.decode(json.dumps(value).encode()).schema_version == 2


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"id": 1}', b"null"])
def test_bytes_that_are_no_event_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidInputError, match="not an event"):
        Envelope.decode(data)


def test_tensors_do_not_travel_in_events() -> None:
    with pytest.raises(InvalidInputError, match="at most 1048576 are carried"):
        envelope({"x": "a" * MAX_EVENT_BYTES}).encode()
    with pytest.raises(InvalidInputError, match="cannot be written as JSON"):
        envelope({"x": float("nan")}).encode()


def test_the_id_depends_on_everything_that_makes_it_one_event() -> None:
    base = event_id("run", "stage", "key", 0)
    assert base == event_id("run", "stage", "key", 0)
    others = {event_id("r", "stage", "key", 0), event_id("run", "s", "key", 0), event_id("run", "stage", "k", 0)}
    assert len({base, event_id("run", "stage", "key", 1), event_id("run", "stagek", "ey", 0)} | others) == 6


def test_topics_are_named_by_stage_and_facts_by_what_happened() -> None:
    assert requested_topic("coarsening") == "hagd.coarsening.requested.v1"
    assert fact_topic("coarsening") == "hagd.hierarchy.built.v1"
    assert fact_topic("other") == "hagd.other.finished.v1"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", 5),
        ("run_id", None),
        ("generation", "2"),
        ("stage_index", True),
        ("stage_index", 2),
        ("stage_index", -1),
        ("schema_version", "new"),
        ("data", []),
        ("plan", []),
        ("plan", [{"stage_id": "a", "semantics_version": "1", "config": {}}] * 2),
        ("run_id", "../../outside"),
        ("run_id", "Run One"),
        ("principal", "../../outside"),
        ("principal", None),
        ("lane", "fast"),
        ("part", 7),
        ("part", "9" * 4301),
        ("plan", [{"stage_id": "a/b", "semantics_version": 1, "config": {}}] * 2),
        ("plan", [{"stage_id": 5, "semantics_version": 1, "config": {}}] * 2),
        ("plan", [{"stage_id": "a", "semantics_version": 1, "config": 7}] * 2),
    ],
)
def test_a_field_of_another_kind_than_it_says_is_no_event(field: str, value: object) -> None:
    content = {**json.loads(envelope({}).encode()), field: value}
    with pytest.raises(InvalidInputError, match="not an event"):
        Envelope.decode(json.dumps(content).encode())


def test_what_is_nested_beyond_reading_is_no_event() -> None:
    with pytest.raises(InvalidInputError, match="not an event: RecursionError"):
        Envelope.decode(b"[" * 10**5)


TRACE = f"00-{'ab' * 16}-{'cd' * 8}-01"


def test_a_trace_travels_with_an_event_and_one_that_is_none_is_passed_over() -> None:
    traced = replace(envelope({}), traceparent=TRACE)
    assert Envelope.decode(traced.encode()) == traced
    assert (traced.id, traced.trace) == (envelope({}).id, TRACE)
    for nonsense in ("nonsense", 7, None, TRACE.upper()):
        value = {**json.loads(traced.encode()), "traceparent": nonsense}
        assert Envelope.decode(json.dumps(value).encode()).traceparent == ""


def test_an_event_without_a_trace_is_part_of_the_trace_of_its_run() -> None:
    assert "traceparent" not in json.loads(envelope({}).encode())
    assert envelope({}).trace == of_run("run")
