"""Events that an earlier release published are planned by this release's notifier and read by its client."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from tocsin_client import Event

from models.messaging.outbox import PLANNING, NewEvent, WaitingEvent, claim_events, write_events
from tasks.events import EVENTS, UNPUBLISHED, CommandDead, TriggerResolved
from tests.event_schemas import validator_for
from tests.messages.samples import COMMANDS, Sample, newest
from tests.messages.samples import EVENTS as SAMPLES
from tests.messages.world import World
from workers.notify.planner import parse_event

NEWEST = newest(SAMPLES)
STORED = [sample for sample in SAMPLES if sample.type not in UNPUBLISHED]
"""Samples of the events in the outbox. The gateway builds those of inbox items when it streams them, and a test of a
webhook is sent to this webhook alone."""

SCENARIO = (
    "incident.unsubscribe", "incident.subscribe", "incident.mark_seen", "comment.edit", "comment.delete",
    "comment.post", "incident.set_status", "incident.open", "metric.observe", "alert_rule.create",
    "alert_rule.update", "alert_rule.delete",
)  # fmt: skip
"""Commands in an order in which they emit the events."""


def test_every_event_has_a_sample() -> None:
    assert set(NEWEST) == set(EVENTS)


@pytest.mark.parametrize("sample", STORED, ids=str)
def test_an_event_from_an_earlier_release_is_planned(world: World, sample: Sample) -> None:
    write(world, sample)

    [waiting] = unplanned(world)
    world.plan()

    assert (parse_event(waiting) is not None) is EVENTS[sample.type].notifies_people
    assert unplanned(world) == []


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_the_client_reads_an_event_from_an_earlier_release(sample: Sample) -> None:
    event = Event.from_json(sample.body)

    assert (event.id, event.type, event.subject) == (sample.body["id"], sample.type, sample.body["subject"])
    assert event.time == datetime.fromisoformat(sample.body["time"])
    assert event.sequence == int(sample.body["sequence"])
    assert event.data == sample.body["data"]


def test_the_newest_sample_of_each_event_matches_the_currently_published_format(world: World) -> None:
    published = publish_every_event(world)

    assert set(published) == {sample.type for sample in STORED}
    for type_, body in published.items():
        sample = NEWEST[type_]
        newer = f"save as {type_}-{sample.version + 1}.json: {json.dumps(body)}"
        assert shape(body) == shape(sample.body), newer


def test_published_events_match_their_schemas_in_the_asyncapi_document(world: World) -> None:
    published = publish_every_event(world)

    assert set(published) == set(EVENTS) - UNPUBLISHED
    for body in world.event_bodies():
        validator_for(body["type"]).validate(body)


def test_the_examples_in_the_docs_match_their_schemas_in_the_asyncapi_document() -> None:
    text = (Path(__file__).parents[2] / "docs" / "messages.md").read_text()
    blocks = re.findall(r"^```json\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    events = [body for body in map(json.loads, blocks) if "specversion" in body]

    assert {body["type"] for body in events} == set(EVENTS)
    for body in events:
        validator_for(body["type"]).validate(body)


def publish_every_event(world: World) -> dict[str, Any]:
    """Apply commands that emit every event; return the first body of each type."""
    samples = newest(COMMANDS)
    for type_ in SCENARIO:
        assert world.apply(type_, samples[type_].body)["state"] == "applied"
        if type_ == "metric.observe":
            resolving = samples[type_].body | {"value": 1, "timestamp": "2026-11-23T10:01:00Z"}
            assert world.apply(type_, resolving)["outcome_body"]["resolved"], TriggerResolved.type
    assert world.apply_unreadable()["state"] == "dead", CommandDead.type
    return {body["type"]: body for body in reversed(world.event_bodies())}


def shape(value: Any) -> Any:
    """Return the field names and types in a JSON value; for a list, those in its first element."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items()}
    if isinstance(value, list):
        return [shape(each) for each in value[:1]]
    return type(value).__name__


def write(world: World, sample: Sample) -> None:
    """Insert the sample as an event that has not been planned yet."""
    data = sample.body["data"]
    event = NewEvent(
        id=UUID(sample.body["id"]),
        organization_id=world.organization,
        subject=sample.body["subject"],
        sequence=int(sample.body["sequence"]) + 1_000,
        type=sample.type,
        incident_id=world.incident if data["incident"] else None,
        activity_id=int(data["activity"]["id"]) if "activity" in data else None,
        command_id=None,
        body=json.dumps(sample.body),
        planned_at=None,
    )
    with world.engine.begin() as connection:
        write_events(connection, [event])


def unplanned(world: World) -> list[WaitingEvent]:
    with world.engine.begin() as connection:
        return claim_events(connection, PLANNING, subjects=10, per_subject=10)
