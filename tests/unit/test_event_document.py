"""The AsyncAPI document describes every event as it is published."""

from __future__ import annotations

import pytest

from gateway.openapi.event_examples import EXAMPLES
from tasks.events import EVENTS, UNPUBLISHED
from tests.event_schemas import DOCUMENT, validator_for


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
