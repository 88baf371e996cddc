"""The schemas of events in the AsyncAPI document, to check published events against them."""

from __future__ import annotations

import json
from typing import Any, Final

from jsonschema import Draft202012Validator, FormatChecker

from gateway.openapi.event_document import build_event_document

DOCUMENT: Final[Any] = json.loads(json.dumps(build_event_document("https://tocsin.test/base")))


def validator_for(type_: str) -> Draft202012Validator:
    """Return the validator for the payload of an event, in which unknown fields are errors."""
    [message] = [each for each in DOCUMENT["components"]["messages"].values() if each["name"] == type_]
    schemas = {name: closed(each) for name, each in DOCUMENT["components"]["schemas"].items()}
    schema = {**message["payload"], "components": {"schemas": schemas}}
    return Draft202012Validator(schema, format_checker=FormatChecker())


def closed(schema: Any) -> Any:
    """Return the schema, in which objects have no other properties than those described."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {word: closed(each) for word, each in schema.items()}
    return inner | ({"additionalProperties": False} if "properties" in schema else {})
