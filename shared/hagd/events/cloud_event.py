"""CloudEvents on Kafka: how requests of other systems come in, and what stands beside our facts so that they can read.

In binary mode the attributes are headers (`ce_id`, `ce_source`, ...) and the value is the data. In structured mode the
value is one JSON object with attributes and data. The SDK is not used, because what comes in is not to be trusted: it
makes up an id where there is none, and takes protobuf that happens to be UTF-8 for text. Tests hold this file to it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from hagd.errors import InvalidInputError
from hagd.events.envelope import Envelope

Headers = Sequence[tuple[str, bytes]]
SPEC_VERSION: Final = "1.0"
JSON: Final = "application/json"
PROTOBUF: Final = "application/protobuf"
STRUCTURED: Final = "application/cloudevents+json"
SOURCE: Final = "/hagd"
"""Where our own events say that they come from."""
_CONTENT_TYPE: Final = "content-type"
_ATTRIBUTES: Final = ("id", "source", "type", "specversion")
_LONGEST: Final = 1024
"""Characters of an attribute."""


@dataclass(frozen=True)
class CloudEvent:
    """An event of another system."""

    id: str
    source: str
    type: str
    content_type: str
    """Of the data, without parameters, in lower case."""
    data: Any
    """What the JSON holds; bytes when the content type is another."""


def is_cloud_event(headers: Headers) -> bool:
    """Say whether a record claims to be one, in either mode."""
    found = _by_name(headers)
    return "ce_specversion" in found or _media_type(_text(found.get(_CONTENT_TYPE))) == STRUCTURED


def read_cloud_event(headers: Headers, value: bytes) -> CloudEvent:
    """Read a record; the size of `value` is the caller's to check.

    Raises:
        InvalidInputError: an attribute is missing or malformed, or what should be JSON is none.
    """
    found = _by_name(headers)
    content_type = _media_type(_text(found.get(_CONTENT_TYPE)))
    if content_type != STRUCTURED:
        attributes = {name: _text(found.get(f"ce_{name}")) for name in _ATTRIBUTES}
        return _event(attributes, content_type, parse_json(value) if content_type == JSON else value)
    whole = parse_json(value)
    if not isinstance(whole, dict):
        raise InvalidInputError(
            "not a CloudEvent: the value is no JSON object", "write it as the CloudEvents JSON format"
        )
    inner = _media_type(whole.get("datacontenttype", JSON))
    if inner != JSON:
        raise InvalidInputError(
            f"not a request: data of {inner!r} inside of JSON", "send protobuf in binary mode, with ce_ headers"
        )
    return _event(whole, inner, whole.get("data"))


def headers_of(topic: str, envelope: Envelope, seconds: float) -> list[tuple[str, bytes]]:
    """Give the headers that make an event of ours a CloudEvent in binary mode.

    Args:
        topic: where it is written; also its type.
        envelope: the event, whose JSON is the data.
        seconds: when, since the epoch.
    """
    when = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    attributes = {
        "specversion": SPEC_VERSION,
        "id": envelope.id,
        "source": SOURCE,
        "type": topic,
        "subject": envelope.run_id,
        "time": when,
    }
    return [(_CONTENT_TYPE, JSON.encode()), *((f"ce_{name}", text.encode()) for name, text in attributes.items())]


def binary_headers(event: CloudEvent) -> list[tuple[str, bytes]]:
    """Give the headers of an event in binary mode, as other systems write it."""
    attributes = {"specversion": SPEC_VERSION, "id": event.id, "source": event.source, "type": event.type}
    return [
        (_CONTENT_TYPE, event.content_type.encode()),
        *((f"ce_{name}", text.encode()) for name, text in attributes.items()),
    ]


def parse_json(data: bytes | str) -> Any:
    """Read JSON that anybody may have written.

    Raises:
        InvalidInputError: it is none, holds NaN or an infinity, or is nested beyond reading.
    """

    def refuse(token: str) -> float:
        raise InvalidInputError(f"not JSON: it holds {token}", "give a finite number")

    try:
        return json.loads(data, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"not JSON: {type(error).__name__}: {error}") from error


def _event(attributes: Mapping[str, Any], content_type: str, data: Any) -> CloudEvent:
    for name in _ATTRIBUTES:
        value = attributes.get(name)
        if not isinstance(value, str) or not 0 < len(value) <= _LONGEST:
            raise InvalidInputError(
                f"not a CloudEvent: its {name} is missing, empty or longer than {_LONGEST} characters",
                f"a CloudEvent has {', '.join(_ATTRIBUTES)}",
            )
    if attributes["specversion"] != SPEC_VERSION:
        raise InvalidInputError(
            f"CloudEvents of version {attributes['specversion']!r} are not read", f"write specversion {SPEC_VERSION}"
        )
    return CloudEvent(attributes["id"], attributes["source"], attributes["type"], content_type, data)


def _by_name(headers: Headers) -> dict[str, bytes]:
    return {name.lower(): value for name, value in headers}


def _text(value: bytes | None) -> str:
    """Give a header as text; what is no UTF-8 becomes something that no check lets through as a name."""
    return (value or b"").decode(errors="replace")


def _media_type(content_type: Any) -> str:
    return str(content_type).partition(";")[0].strip().lower()
