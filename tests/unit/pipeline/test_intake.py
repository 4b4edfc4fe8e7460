"""What other systems may write to the topic of requests: two encodings of one request, and anything at all."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hagd.artifacts.reference import ArtifactRef
from hagd.errors import HagdError, InvalidInputError, UnknownNameError, UnservedVersionError
from hagd.events.cloud_event import STRUCTURED
from hagd.events.envelope import MAX_REQUEST_BYTES, Envelope, PlanEntry
from hagd.events.topics import Lane
from hagd.pipeline.contract import task_key
from hagd.pipeline.intake import REQUESTED, RequestReader, principal_of, request_of
from hagd.pipeline.request import Request, run_id_of
from hagd.rpc.codec import read_request, request_to_proto
from unit.pipeline.toy_stages import STAGES

Record = tuple[list[tuple[str, bytes]], bytes]
REF = ArtifactRef("a" * 64, 1013, "application/json")


def plan_settings(given: Mapping[str, Any], use: Mapping[str, str]) -> Sequence[PlanEntry]:
    """Plan as a planner does that knows one setting."""
    if "task" not in given:
        raise UnknownNameError("there is no such task", "numbers is one")
    return [PlanEntry(use.get("numbers", "numbers"), 1, {"seed": given["seed"] + 0})]


FLOATS = st.floats(-(2.0**52), 2.0**52)
"""Those that come back as what they were; larger ones are whole numbers in RFC 8785, which takes none of that size."""
READER = RequestReader(plan_settings, read_request)


def as_protobuf(request: Request, *, source: str = "me", kind: str = REQUESTED) -> Record:
    attributes = {"id": "1", "source": source, "type": kind, "specversion": "1.0"}
    headers = [(f"ce_{name}", text.encode()) for name, text in attributes.items()]
    message = request_to_proto(request).SerializeToString(deterministic=True)
    return [*headers, ("content-type", b"application/protobuf")], message


def as_json(data: object, *, source: str = "me", kind: str = REQUESTED) -> Record:
    event = {"id": "2", "source": source, "type": kind, "specversion": "1.0", "data": data}
    return [("content-type", STRUCTURED.encode())], json.dumps(event).encode()


def data_of(request: Request) -> dict[str, Any]:
    return {name: value for name, value in request.to_json().items() if name != "principal"}


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | FLOATS
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3)
    ),
    max_leaves=8,
)
names = st.from_regex(r"[a-z0-9]([a-z0-9_-]|\.(?!\.)){0,30}", fullmatch=True)
configs = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=7), json_values, max_size=3)
refs = st.builds(ArtifactRef, st.from_regex("[0-9a-f]{64}", fullmatch=True), st.integers(0, 2**40), st.just("x/y"))
requests = st.builds(
    Request,
    st.just("me"),
    names,
    st.lists(st.builds(PlanEntry, names, st.integers(0, 2**31 - 1), configs), min_size=1, max_size=3).map(tuple),
    st.dictionaries(names, refs, max_size=3),
    st.dictionaries(names, names, max_size=3),
    st.sampled_from(["interactive", "batch"]),
)


@settings(max_examples=50)
@given(requests)
def test_both_encodings_of_a_request_are_one_event(request: Request) -> None:
    events = {READER(*as_protobuf(request)).encode(), READER(*as_json(data_of(request))).encode()}

    assert len(events) == 1
    assert request_of(Envelope.decode(events.pop())) == request


@given(st.integers(0, 2**53 - 1), FLOATS)
def test_both_encodings_give_the_task_keys_of_a_request_made_here(seed: int, threshold: float) -> None:
    plan = (PlanEntry("numbers", 1, {"seed": seed}), PlanEntry("verdict", 2, {"threshold": threshold}))
    request = Request("me", "one", plan)

    def keys(plan: Sequence[PlanEntry]) -> list[str]:
        inputs = {"total": REF}
        return [task_key(STAGES[entry.stage_id], inputs, entry.config) for entry in plan]

    assert keys(READER(*as_protobuf(request)).plan) == keys(READER(*as_json(data_of(request))).plan) == keys(plan)


def test_settings_become_the_plan_that_the_planner_makes() -> None:
    data = {"request_id": "one", "settings": {"task": "numbers", "seed": 5}, "use": {"numbers": "other"}}
    event = READER(*as_json(data))

    assert event.plan == (PlanEntry("other", 1, {"seed": 5}),)
    assert event.run_id == run_id_of("me", "one")


def test_the_source_of_an_event_is_who_asks_unless_somebody_else_says_who_that_is() -> None:
    data = {"request_id": "one", "settings": {"task": "numbers", "seed": 5}}
    known = RequestReader(plan_settings, read_request, {"//shop/orders": "shop"}.__getitem__)

    assert READER(*as_json(data, source="shop")).run_id == run_id_of("shop", "one")
    assert known(*as_json(data, source="//shop/orders")).run_id == run_id_of("shop", "one")


@given(st.lists(st.text(min_size=1), min_size=2, max_size=5, unique=True))
def test_no_two_sources_are_one_principal(sources: list[str]) -> None:
    principals = [principal_of(source) for source in sources]

    assert len(set(principals)) == len(sources)
    assert all(Request(principal, "x", (PlanEntry("a", 1),)) for principal in principals)


def test_a_newer_version_of_the_request_waits_and_is_not_poison() -> None:
    newer = REQUESTED.replace(".v1", ".v2")

    for record in (
        as_json({"novel": 1}, kind=newer),
        as_protobuf(Request("me", "x", (PlanEntry("a", 1),)), kind=newer),
    ):
        with pytest.raises(UnservedVersionError, match=r"type hagd.extraction.requested.v2 waits"):
            READER(*record)
    with pytest.raises(UnservedVersionError, match="an event of version 3 cannot be read"):
        READER([], b'{"schema_version": 3, "plan": {"graph": 1}}')


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (None, "not a request: the data"),
        ({}, "request_id: Field required"),
        ({"request_id": "a"}, "give either plan or settings"),
        ({"request_id": "a", "plan": [], "settings": {}}, "plan: List should have at least 1 item"),
        ({"request_id": "a/b", "settings": {}}, "request_id: String should match"),
        ({"request_id": "a..b", "settings": {"task": "numbers", "seed": 1}}, "cannot be a request id"),
        ({"request_id": "a", "plan": [{"stage_id": "s", "semantics_version": "1"}]}, r"plan.0.semantics_version"),
        (
            {"request_id": "a", "plan": [{"stage_id": "s", "semantics_version": 1}], "modulus": 5},
            "modulus: Extra inputs",
        ),
        ({"request_id": "a", "settings": {}, "lane": "fast"}, "lane: Input should be 'interactive' or 'batch'"),
        ({"request_id": "a", "settings": {}}, "there is no such task"),
        ({"request_id": "a", "settings": {"task": "numbers", "seed": None}}, "the settings make no plan: TypeError"),
        ({"request_id": "a", "settings": {}, "inputs": {"graph": {"sha256": "x"}}}, r"inputs.graph.sha256"),
        (
            {"request_id": "a", "plan": [{"stage_id": "s", "semantics_version": 1, "config": {"x": 2**60}}]},
            "not a request: IntegerDomainError",
        ),
        (
            {"request_id": "a", "plan": [{"stage_id": "s", "semantics_version": 1, "config": {"x": 1e17}}]},
            "the event cannot be written as JSON",
        ),
        (
            {"request_id": "a", "plan": [{"stage_id": "s", "semantics_version": 1, "config": {"x": "\ud800"}}]},
            "not a request: CanonicalizationError",
        ),
        (
            {"request_id": "a", "plan": [{"stage_id": "s", "semantics_version": 1}] * 65},
            "plan: List should have at most 64 items",
        ),
        (
            {
                "request_id": "a",
                "plan": [{"stage_id": "s", "semantics_version": 1, "config": {"x": "y" * MAX_REQUEST_BYTES}}],
            },
            "at most 983040 are taken",
        ),
    ],
)
def test_a_request_that_cannot_be_taken_says_why(data: object, complaint: str) -> None:
    with pytest.raises(HagdError, match=complaint):
        READER(*as_json(data))


def test_a_message_with_too_many_entries_or_an_unknown_lane_is_refused() -> None:
    many = Request("me", "a", (PlanEntry("a", 1),) * 65)
    with pytest.raises(InvalidInputError, match="too many entries"):
        READER(*as_protobuf(many))
    headers, value = as_protobuf(Request("me", "a", (PlanEntry("a", 1),)))
    with pytest.raises(InvalidInputError, match="there is no lane 9"):
        READER(headers, value + b"\x28\x09")


def test_an_event_of_another_type_or_content_is_no_request() -> None:
    with pytest.raises(InvalidInputError, match=r"an event of type 'shop.order.placed'"):
        READER(*as_json({}, kind="shop.order.placed"))
    headers, value = as_protobuf(Request("me", "a", (PlanEntry("a", 1),)))
    with pytest.raises(InvalidInputError, match="'text/xml'"):
        READER([*headers, ("content-type", b"text/xml")], value)


def test_an_event_of_our_own_passes_and_may_not_say_by_itself_who_asks() -> None:
    plan = (PlanEntry("numbers", 1, {"seed": 5}),)
    own = Envelope("id", "ab" * 32, "somebody", 0, 0, plan, {}, {"healings": 0})
    assert READER([("hagd-id", b"id")], own.encode()) == own
    forged = READER(*as_json(data_of(Request("me", "a", plan))))
    with pytest.raises(InvalidInputError, match="it holds a request"):
        READER([("hagd-id", b"id")], forged.encode())


header_names = st.sampled_from(["content-type", "ce_id", "ce_source", "ce_specversion", "ce_type", "hagd-id"])
header_values = st.binary() | st.sampled_from(
    [b"1.0", b"1", REQUESTED.encode(), b"application/json", b"application/protobuf", STRUCTURED.encode()]
)


@given(
    st.lists(st.tuples(header_names, header_values), max_size=7),
    st.binary() | json_values.map(json.dumps).map(str.encode),
)
def test_random_records_raise_nothing_but_errors_of_the_tree(headers: list[tuple[str, bytes]], value: bytes) -> None:
    attempt(headers, value)


@given(st.binary())
def test_random_protobuf_raises_nothing_but_errors_of_the_tree(value: bytes) -> None:
    attempt(as_protobuf(Request("me", "a", (PlanEntry("a", 1),)))[0], value)


@given(
    st.dictionaries(st.sampled_from(["request_id", "plan", "settings", "inputs", "labels", "lane", "use"]), json_values)
)
def test_random_data_raises_nothing_but_errors_of_the_tree(data: dict[str, object]) -> None:
    attempt(*as_json(data))


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(requests, st.data())
def test_a_flipped_bit_raises_nothing_but_errors_of_the_tree(request: Request, data: st.DataObject) -> None:
    headers, value = data.draw(st.sampled_from([as_protobuf(request), as_json(data_of(request))]))
    place = data.draw(st.integers(0, len(value) - 1))
    attempt(headers, value[:place] + bytes([value[place] ^ (1 << data.draw(st.integers(0, 7)))]) + value[place + 1 :])


def attempt(headers: list[tuple[str, bytes]], value: bytes) -> None:
    """Read a record; what is read is an event that can be written."""
    try:
        event = READER(headers, value)
    except HagdError as error:
        assert error.message
    else:
        assert Envelope.decode(event.encode()) == event


LANES: tuple[Lane, ...] = ("interactive", "batch")


@pytest.mark.parametrize("lane", LANES)
def test_the_lane_goes_along_and_is_no_part_of_the_run(lane: Lane) -> None:
    request = Request("me", "a", (PlanEntry("a", 1),), lane=lane)

    for record in (as_protobuf(request), as_json(data_of(request))):
        event = READER(*record)
        assert (found := request_of(event)) is not None
        assert found.lane == lane
        assert event.run_id == run_id_of("me", "a")
