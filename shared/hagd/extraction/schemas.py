"""JSON Schemas of what other systems write and read on Kafka, made from the classes that read and write it."""

from typing import Any, Final

from pydantic import TypeAdapter

from hagd.events.cloud_event import SPEC_VERSION
from hagd.events.envelope import Envelope
from hagd.extraction.plan import SENT
from hagd.extraction.settings import Settings
from hagd.pipeline.intake import REQUESTED, ExtractionRequest
from hagd.pipeline.state import Outcome, StageState

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_DEFINITIONS: Final = "#/$defs/{model}"


def request_schema() -> dict[str, Any]:
    """Give the schema of a request in structured mode: the whole CloudEvent."""
    data = ExtractionRequest.model_json_schema(ref_template=_DEFINITIONS)
    settings = TypeAdapter(Settings).json_schema()
    sent = {name: value for name, value in settings["properties"].items() if name in SENT}
    definitions = data.pop("$defs")
    definitions["Settings"] = {"type": "object", "properties": sent, "additionalProperties": False}
    data["properties"]["settings"] = {"anyOf": [{"$ref": "#/$defs/Settings"}, {"type": "null"}], "default": None}
    definitions["ExtractionRequest"] = data
    text = {"type": "string", "minLength": 1, "maxLength": 1024}
    attributes = {"specversion": {"const": SPEC_VERSION}, "id": text, "source": text, "type": {"const": REQUESTED}}
    return {
        "$schema": _DIALECT,
        "title": "A request as a CloudEvent in structured mode",
        "type": "object",
        "properties": {
            **attributes,
            "datacontenttype": {"const": "application/json"},
            "data": {"$ref": "#/$defs/ExtractionRequest"},
        },
        "required": [*attributes, "data"],
        "$defs": definitions,
    }


def fact_schema() -> dict[str, Any]:
    """Give the schema of the value of a fact: which run, what it was asked, and in `data` what happened."""
    schema = TypeAdapter(Envelope).json_schema(ref_template=_DEFINITIONS)
    definitions = schema.pop("$defs")
    for name, kind in (("StageState", StageState), ("Outcome", Outcome)):
        found = TypeAdapter(kind).json_schema(ref_template=_DEFINITIONS)
        definitions |= found.pop("$defs", {})
        definitions[name] = found
    definitions["StageState"]["properties"]["verdict"] = {
        "description": "In the fact of the last stage of a plan: how the run ended.",
        "enum": ["verified", "refuted", "no claim"],
    }
    definitions["Refusal"] = {
        "description": "On a dead-letter topic: why a stage, or `extraction` for the entry, gave a request up.",
        "type": "object",
        "properties": {
            "stage_id": {"type": "string"},
            "failure": {"$ref": "#/$defs/Failure"},
            "attempts": {"type": "integer"},
            "refused": {"description": "True where the request never became a run.", "type": "boolean"},
        },
        "required": ["stage_id", "failure", "attempts"],
    }
    kinds = ("StageState", "Outcome", "Refusal")
    schema["properties"]["data"] = {"anyOf": [{"$ref": f"#/$defs/{kind}"} for kind in kinds]}
    return {"$schema": _DIALECT, **schema, "title": "The value of a fact", "$defs": dict(sorted(definitions.items()))}
