"""The AsyncAPI document describes every event as it is published."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker

from gateway.openapi.event_document import build_event_document
from gateway.openapi.event_examples import EXAMPLES
from tasks.events import EVENTS, UNPUBLISHED

DOCUMENT: Any = json.loads(json.dumps(build_event_document("https://tocsin.test/base")))


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


def test_every_event_is_a_message_on_the_channels_that_carry_it() -> None:
    carried = {
        name: {DOCUMENT["components"]["messages"][each]["name"] for each in channel["messages"]}
        for name, channel in DOCUMENT["channels"].items()
    }

    assert carried["exchange"] == set(EVENTS) - UNPUBLISHED
    assert carried["webhook"] == set(EVENTS) - {"notification.created"}
    assert carried["stream"] == {"notification.created"} | {
        type_ for type_ in EVENTS if type_.startswith(("incident.", "alert_trigger."))
    }
    assert {each["name"] for each in DOCUMENT["components"]["messages"].values()} == set(EVENTS)
    assert DOCUMENT["servers"]["gateway"] == {"host": "tocsin.test", "protocol": "https", "pathname": "/base"}


@pytest.mark.parametrize("type_", EVENTS)
def test_the_example_of_an_event_matches_its_schema(type_: str) -> None:
    [message] = [each for each in DOCUMENT["components"]["messages"].values() if each["name"] == type_]
    [example] = message["examples"]

    validator_for(type_).validate(example["payload"])
    assert example["payload"]["type"] == type_
    assert set(EXAMPLES) == set(EVENTS)


def test_a_payload_without_a_described_field_does_not_match() -> None:
    [example] = DOCUMENT["components"]["messages"]["IncidentMentioned"]["examples"]
    payload = example["payload"] | {"data": {**example["payload"]["data"], "teams": None}}

    assert not validator_for("incident.mentioned").is_valid(payload)
