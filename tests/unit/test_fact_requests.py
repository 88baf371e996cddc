"""The facts that each command requests, by its handler's needs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from models.base import new_id
from models.messaging.claims import ClaimedCommand
from models.types import JSON, MAX_ID
from tasks.commands.catalog import CATALOG
from workers.batch.fact_request import FactRequest, InboxRequest, ObservedProject, PendingCommand
from workers.handlers import request_facts

ORGANIZATION, TOKEN, USER = 1, 2, 3
ACTION: dict[str, JSON] = {"type": "email", "targetType": "team", "targetIdentifier": 22}
RULE: dict[str, JSON] = {
    "name": "Errors",
    "aggregate": "count()",
    "query": "",
    "timeWindow": 10,
    "thresholdType": 0,
    "environment": "prod",
    "triggers": [
        {
            "label": "critical",
            "alertThreshold": 100,
            "excludedProjects": ["p9"],
            "actions": [
                ACTION,
                {"type": "email", "targetType": "user", "targetIdentifier": "12"},
                {"type": "webhook", "targetType": "specific", "targetIdentifier": "https://example.com/"},
            ],
        },
        {"label": "warning", "alertThreshold": 50},
    ],
}


def a_request(**facts: Any) -> FactRequest:
    """Return a request for the facts that every command needs, and for these facts."""
    always: dict[str, Any] = {
        "token_ids": {TOKEN},
        "organization_ids": {ORGANIZATION},
        "user_ids": {USER},
        "new_activity_ids": 1,
    }
    return FactRequest(**(always | facts))


def a_pending_command(name: str, body: dict[str, JSON]) -> PendingCommand[Any]:
    row = ClaimedCommand(
        id=new_id(),
        seq=1,
        type=name,
        subject="",
        lane="commands",
        organization_id=ORGANIZATION,
        token_id=TOKEN,
        user_id=USER,
        caller=f"user:{USER}",
        payload=body,
        accepted_at=datetime(2026, 11, 23, tzinfo=UTC),
        attempts=0,
        timeouts=0,
        is_alone=False,
        expected_version=None,
        request_id=None,
        traceparent=None,
    )
    return PendingCommand(row, CATALOG[name].command_class.model_validate(body))


CASES: list[tuple[str, dict[str, JSON], FactRequest]] = [
    (
        "incident.open",
        {"title": "Disk full", "projects": ["p1", "p2"], "alertRule": 4, "dedupKey": "disk"},
        a_request(
            dedup_keys={(1, "disk")},
            detailed_incidents={(1, "dedup:disk")},
            project_slugs={(1, "p1"), (1, "p2")},
            opening_organization_ids={1},
            rule_ids={4},
            new_incident_ids=1,
            new_activity_ids=2,
        ),
    ),
    (
        "incident.open",
        {"title": "Disk full", "projects": ["p1"]},
        a_request(project_slugs={(1, "p1")}, opening_organization_ids={1}, new_incident_ids=1, new_activity_ids=2),
    ),
    (
        "incident.open",
        {"title": "Disk full", "projects": ["p1"], "alertRule": -1},
        a_request(project_slugs={(1, "p1")}, opening_organization_ids={1}, new_incident_ids=1, new_activity_ids=2),
    ),
    (
        "alertmanager.receive",
        {"dedupKey": "{}:{}", "state": "firing", "title": "Disk full", "project": "p1"},
        a_request(
            dedup_keys={(1, "{}:{}")},
            closed_keys={(1, "{}:{}")},
            detailed_incidents={(1, "dedup:{}:{}")},
            project_slugs={(1, "p1")},
            opening_organization_ids={1},
            new_incident_ids=1,
            new_activity_ids=2,
        ),
    ),
    (
        "alertmanager.receive",
        {"dedupKey": "{}:{}", "state": "resolved", "title": "Disk full"},
        a_request(
            dedup_keys={(1, "{}:{}")},
            closed_keys={(1, "{}:{}")},
            detailed_incidents={(1, "dedup:{}:{}")},
            opening_organization_ids={1},
            new_incident_ids=1,
            new_activity_ids=2,
        ),
    ),
    (
        "incident.set_status",
        {"incident": "7", "status": 2},
        a_request(incidents={(1, 7)}, detailed_incidents={(1, "7")}, action_recipients=True),
    ),
    (
        "incident.set_status",
        {"incident": "dedup:disk", "status": 1},
        a_request(dedup_keys={(1, "disk")}, detailed_incidents={(1, "dedup:disk")}, action_recipients=True),
    ),
    ("incident.set_status", {"incident": "x", "status": 2}, a_request(action_recipients=True)),
    ("incident.mark_seen", {"incident": "7"}, a_request(incidents={(1, 7)})),
    (
        "incident.subscribe",
        {"incident": "dedup:disk"},
        a_request(dedup_keys={(1, "disk")}, detailed_incidents={(1, "dedup:disk")}),
    ),
    ("incident.unsubscribe", {"incident": 7}, a_request(incidents={(1, 7)}, detailed_incidents={(1, "7")})),
    (
        "comment.post",
        {"incident": "7", "comment": "Look", "mentions": ["ana", "user:12", "team:22", "0", None]},
        a_request(user_ids={3, 12}, user_names={"ana"}, team_ids={22}, incidents={(1, 7)}),
    ),
    (
        "comment.edit",
        {"incident": "7", "id": "31", "comment": "Look again", "mentions": ["Ana@Example.com"]},
        a_request(user_names={"ana@example.com"}, incidents={(1, 7)}, comment_ids={31}),
    ),
    ("comment.edit", {"incident": "7", "id": 31, "comment": "Look"}, a_request(incidents={(1, 7)}, comment_ids={31})),
    ("comment.delete", {"incident": "dedup:disk", "id": "31"}, a_request(dedup_keys={(1, "disk")}, comment_ids={31})),
    ("incident.mute", {"incident": 7}, a_request(incidents={(1, 7)}, preference_user_ids={3})),
    ("incident.unmute", {"incident": "7"}, a_request(incidents={(1, 7)}, preference_user_ids={3})),
    ("preferences.replace", {}, a_request(preference_user_ids={3})),
    (
        "preferences.replace",
        {"mutedIncidents": ["5", 6]},
        a_request(preference_user_ids={3}, muted_incident_ids={(3, 5), (3, 6)}),
    ),
    ("notification.read", {"upTo": 9}, a_request(inboxes=[InboxRequest(3, 1, (), 9)])),
    ("notification.read", {"all": True}, a_request(inboxes=[InboxRequest(3, 1, (), MAX_ID)])),
    (
        "notification.read",
        {"incident": "5"},
        a_request(incidents={(1, 5)}, inboxes=[InboxRequest(3, 1, (), 0, "5")]),
    ),
    ("notification.read", {"ids": [3, 4]}, a_request(inboxes=[InboxRequest(3, 1, (3, 4), 0)])),
    (
        "alert_rule.create",
        RULE | {"projects": ["p1"], "owner": "team:21", "excludedProjects": ["p2"]},
        a_request(
            user_ids={3, 12},
            team_ids={21},
            project_slugs={(1, "p1"), (1, "p2")},
            rule_count_organization_ids={1},
            target_team_ids={22},
            new_rule_ids=6,
        ),
    ),
    (
        "alert_rule.create",
        RULE | {"inProject": "p1", "owner": "12"},
        a_request(
            user_ids={3, 12},
            project_slugs={(1, "p1")},
            rule_count_organization_ids={1},
            target_team_ids={22},
            new_rule_ids=6,
        ),
    ),
    (
        "alert_rule.update",
        RULE | {"alertRule": 4, "projects": ["p1"], "owner": "user:12", "inProject": "p3"},
        a_request(
            user_ids={3, 12},
            project_slugs={(1, "p1"), (1, "p3")},
            rule_ids={4},
            ending_rule_ids={4},
            target_team_ids={22},
            new_rule_ids=6,
        ),
    ),
    (
        "alert_rule.update",
        RULE | {"alertRule": 4},
        a_request(user_ids={3, 12}, rule_ids={4}, ending_rule_ids={4}, target_team_ids={22}, new_rule_ids=6),
    ),
    ("alert_rule.delete", {"alertRule": 4}, a_request(rule_ids={4}, ending_rule_ids={4})),
    (
        "alert_rule.delete",
        {"alertRule": 4, "inProject": "p1"},
        a_request(project_slugs={(1, "p1")}, rule_ids={4}, ending_rule_ids={4}),
    ),
    (
        "alert_rule.snooze",
        {"alertRule": 4, "target": "me", "inProject": "p1"},
        a_request(project_slugs={(1, "p1")}, rule_ids={4}),
    ),
    ("alert_rule.unsnooze", {"alertRule": 4}, a_request(rule_ids={4})),
    (
        "trigger.create",
        {
            "alertRule": 4,
            "label": "warning",
            "alertThreshold": 50,
            "excludedProjects": ["p2"],
            "actions": [{"type": "email", "targetType": "team", "targetIdentifier": 22}],
        },
        a_request(project_slugs={(1, "p2")}, rule_ids={4}, ending_rule_ids={4}, target_team_ids={22}, new_rule_ids=2),
    ),
    (
        "trigger.update",
        {
            "alertRule": 4,
            "id": 7,
            "alertThreshold": 200,
            "excludedProjects": ["p2"],
            "actions": [{"type": "email", "targetType": "team", "targetIdentifier": 22, "id": 8}],
        },
        a_request(project_slugs={(1, "p2")}, rule_ids={4}, ending_rule_ids={4}, target_team_ids={22}, new_rule_ids=2),
    ),
    ("trigger.delete", {"alertRule": 4, "id": 7}, a_request(rule_ids={4}, ending_rule_ids={4})),
    (
        "trigger_action.create",
        {"alertRule": 4, "trigger": 7, "action": {"type": "email", "targetType": "user", "targetIdentifier": 22}},
        a_request(user_ids={3, 22}, rule_ids={4}, new_rule_ids=1),
    ),
    (
        "trigger_action.update",
        {
            "alertRule": 4,
            "trigger": 7,
            "id": 8,
            "action": {"type": "email", "targetType": "team", "targetIdentifier": 22},
        },
        a_request(rule_ids={4}, target_team_ids={22}, new_rule_ids=1),
    ),
    ("trigger_action.delete", {"alertRule": 4, "trigger": 7, "id": 8}, a_request(rule_ids={4})),
    (
        "webhook.create",
        {"url": "https://example.com/", "events": ["*"]},
        a_request(webhook_count_organization_ids={1}, new_webhook_ids=1),
    ),
    ("webhook.update", {"id": "5", "events": ["*"]}, a_request(webhook_ids={5})),
    ("webhook.delete", {"id": "5"}, a_request(webhook_ids={5})),
    ("webhook.delete", {"id": "x"}, a_request()),
    ("webhook.rotate", {"id": 5}, a_request(webhook_ids={5})),
    ("webhook.test", {"id": 5}, a_request(webhook_ids={5})),
    (
        "chat_destination.create",
        {"name": "ops", "url": "sealed:x", "user": 12},
        a_request(chat_organization_ids={1}, new_chat_destination_ids=1, user_ids={USER, 12}),
    ),
    ("chat_destination.update", {"id": "5", "name": "ops"}, a_request(chat_organization_ids={1})),
    ("chat_destination.delete", {"id": "5"}, a_request(chat_organization_ids={1})),
    ("chat_destination.test", {"id": "5"}, a_request(chat_organization_ids={1})),
    (
        "webhook.redeliver",
        {"id": 5, "delivery": "01a224b3-4109-77a6-b7e9-0495fba1aaaa"},
        a_request(webhook_ids={5}, webhook_delivery_ids={UUID("01a224b3-4109-77a6-b7e9-0495fba1aaaa")}),
    ),
    (
        "metric.observe",
        {"alertRule": 4, "project": "p1", "value": 101, "timestamp": "2026-11-23T10:00:00Z"},
        a_request(
            project_slugs={(1, "p1")},
            opening_organization_ids={1},
            rule_ids={4},
            observed_projects=[ObservedProject(1, 4, "p1")],
            action_recipients=True,
            new_incident_ids=1,
            new_activity_ids=2,
        ),
    ),
]


@pytest.mark.parametrize(("name", "body", "expected"), CASES)
def test_a_command_requests_exactly_the_facts_that_its_handler_needs(
    name: str, body: dict[str, JSON], expected: FactRequest
) -> None:
    assert request_facts([a_pending_command(name, body)]) == expected


@pytest.mark.parametrize("name", CATALOG)
def test_the_fact_request_of_every_command_is_tested(name: str) -> None:
    assert name in {case[0] for case in CASES}, f"a case for {name} is missing"


def test_a_batch_requests_the_facts_of_all_its_commands() -> None:
    batch = [
        a_pending_command("comment.post", {"incident": "7", "comment": "Look", "mentions": ["ana"]}),
        a_pending_command("incident.mark_seen", {"incident": "8"}),
    ]

    assert request_facts(batch) == a_request(
        incidents={(ORGANIZATION, 7), (ORGANIZATION, 8)}, user_names={"ana"}, new_activity_ids=2
    )
