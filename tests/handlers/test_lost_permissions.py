"""Every command, with every way to lose the permission for it between acceptance and application.

The cases are generated from the catalog. A new command needs an entry in ``BODIES``; the first test fails without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import insert
from sqlalchemy.engine import Connection

from models.alert_rules.alert_rule import Action, Trigger, alert_rule_snoozes
from models.alert_rules.enums import ActionType, TargetType
from models.base import new_id
from models.permissions import CHAT_DESTINATIONS, WEBHOOKS
from models.role_scopes import MEMBER_SCOPES
from models.types import JSON
from tasks.commands.alert_rules import CreateRule, RuleCommand
from tasks.commands.alertmanager import ReceiveAlerts
from tasks.commands.base import Command
from tasks.commands.catalog import CATALOG, CatalogEntry
from tasks.commands.comments import PostComment
from tasks.commands.incidents import OpenIncident, SetStatus
from tasks.commands.observations import ObserveMetric
from tests.builders import NOW, a_chat_destination, a_comment, a_webhook, a_webhook_delivery, an_alert_rule
from tests.handlers.acme import Acme
from tests.harness import Harness

TRIGGER, ACTION = 7, 8
OWN_RULE: dict[str, JSON] = {"alertRule": "the rule of the request"}
OWN_COMMENT = "the comment of the caller"
WEBHOOK, OWN_WEBHOOK, DELIVERY = 5_000, "the webhook of the request", "01a224b3-4109-77a6-b7e9-0495fba1aaaa"
DESTINATION, OWN_DESTINATION, OWN_NAME = 6_000, "the chat destination of the request", "a name of the request"
ACTION_BODY: dict[str, JSON] = {"type": "email", "targetType": "team", "targetIdentifier": 22}
RULE: dict[str, JSON] = {
    "name": "Errors", "aggregate": "count()", "query": "", "timeWindow": 10, "thresholdType": 0, "environment": "prod",
    "triggers": [{"label": "critical", "alertThreshold": 100}],
}  # fmt: skip
BODIES: dict[str, dict[str, JSON]] = {
    "incident.open": {"title": "Disk full", "projects": ["p1"]},
    "alertmanager.receive": {"dedupKey": "{}:{}", "state": "firing", "title": "Disk full", "project": "p1"},
    "incident.set_status": {"incident": "1", "status": 2},
    "incident.mark_seen": {"incident": "1"},
    "incident.subscribe": {"incident": "1"},
    "incident.unsubscribe": {"incident": "1"},
    "comment.post": {"incident": "1", "comment": "Look", "mentions": ["ana"]},
    "comment.edit": {"incident": "1", "id": OWN_COMMENT, "comment": "Look again"},
    "comment.delete": {"incident": "1", "id": OWN_COMMENT},
    "incident.mute": {"incident": "1"},
    "incident.unmute": {"incident": "1"},
    "notification.read": {"upTo": 1},
    "preferences.replace": {"channels": {"mention": {"email": "digest"}}},
    "alert_rule.create": RULE | {"projects": ["p1"]},
    "alert_rule.update": RULE | OWN_RULE,
    "alert_rule.delete": OWN_RULE,
    "alert_rule.snooze": OWN_RULE | {"target": "me"},
    "alert_rule.unsnooze": OWN_RULE,
    "trigger.create": OWN_RULE | {"label": "warning", "alertThreshold": 50},
    "trigger.update": OWN_RULE | {"id": TRIGGER, "alertThreshold": 200},
    "trigger.delete": OWN_RULE | {"id": TRIGGER},
    "trigger_action.create": OWN_RULE | {"trigger": TRIGGER, "action": ACTION_BODY},
    "trigger_action.update": OWN_RULE | {"trigger": TRIGGER, "id": ACTION, "action": ACTION_BODY},
    "trigger_action.delete": OWN_RULE | {"trigger": TRIGGER, "id": ACTION},
    "webhook.create": {"url": "https://hooks.example.com/tocsin", "events": ["*"]},
    "webhook.update": {"id": WEBHOOK, "description": "Chat bridge"},
    "webhook.delete": {"id": OWN_WEBHOOK},
    "webhook.rotate": {"id": WEBHOOK},
    "webhook.test": {"id": WEBHOOK},
    "webhook.redeliver": {"id": WEBHOOK, "delivery": DELIVERY},
    "chat_destination.create": {"name": OWN_NAME, "url": "sealed:unreadable"},
    "chat_destination.update": {"id": DESTINATION, "status": "disabled"},
    "chat_destination.delete": {"id": OWN_DESTINATION},
    "chat_destination.test": {"id": DESTINATION},
    "metric.observe": OWN_RULE | {"project": "p1", "value": 101, "timestamp": "2026-11-23T10:00:00Z"},
}
"""A body for every command, by the command's name. The people of :func:`person_for` may submit all of them."""

WITH_TOKEN = "a person", "a service acting for a person", "a service"
SESSION = "a person without a token"
ALL = (*WITH_TOKEN, SESSION)
PEOPLE = (*WITH_TOKEN[:2], SESSION)
FORBIDDEN = 403, {"detail": "You do not have permission to perform this action."}
MISSING = 404, {"detail": "The requested resource does not exist"}


def unauthenticated(text: str) -> tuple[int, JSON]:
    return 401, {"detail": text}


def concerns_incident(entry: CatalogEntry) -> bool:
    field = entry.command_class.model_fields.get("incident")
    return field is not None and field.is_required()


def concerns_rule(entry: CatalogEntry) -> bool:
    return "alertRule" in BODIES[entry.command_class.name]


def concerns_projects(entry: CatalogEntry) -> bool:
    return concerns_incident(entry) or concerns_rule(entry) or entry.command_class is OpenIncident


def creates_rule(entry: CatalogEntry) -> bool:
    return entry.command_class is CreateRule


def concerns_alerts(entry: CatalogEntry) -> bool:
    return issubclass(entry.command_class, (RuleCommand, ObserveMetric))


def exceeds_members(entry: CatalogEntry) -> bool:
    return not entry.permission.scopes[entry.method] & MEMBER_SCOPES


def requires_feature(entry: CatalogEntry) -> bool:
    return entry.permission.required_feature(entry.method) is not None


def is_any(_entry: CatalogEntry) -> bool:
    return True


@dataclass(frozen=True)
class Loss:
    """A loss of permission: SQL statements that cause it, the callers and commands it affects, and their refusal."""

    statements: tuple[str, ...]
    callers: tuple[str, ...]
    refusal: tuple[int, JSON]
    applies_to: Callable[[CatalogEntry], bool] = is_any

    def affects(self, caller: str, entry: CatalogEntry) -> bool:
        return caller in self.callers and self.applies_to(entry)


LOSSES = {
    "the token is revoked": Loss(
        ("UPDATE tokens SET revoked_at = now()",), WITH_TOKEN, unauthenticated("Invalid token")
    ),
    "the token expires": Loss(("UPDATE tokens SET expires_at = now()",), WITH_TOKEN, unauthenticated("Token expired")),
    "the person is deactivated": Loss(
        ("UPDATE users SET is_active = false",), (WITH_TOKEN[0], SESSION), unauthenticated("User inactive or deleted")
    ),
    "the person that a service acts for is deactivated": Loss(
        ("UPDATE users SET is_active = false",), WITH_TOKEN[1:2], FORBIDDEN
    ),
    "the service may no longer act for people": Loss(("UPDATE tokens SET act_as = false",), WITH_TOKEN[1:2], FORBIDDEN),
    "the token loses its scopes": Loss(("UPDATE tokens SET scopes = '{openid}'",), WITH_TOKEN, FORBIDDEN),
    "the person leaves the organization": Loss(
        ("DELETE FROM members",), (WITH_TOKEN[0], SESSION), FORBIDDEN, lambda entry: not entry.is_personal
    ),
    "the person that a service acts for leaves the organization": Loss(
        ("DELETE FROM members",), WITH_TOKEN[1:2], FORBIDDEN
    ),
    "the role is lowered": Loss(("UPDATE members SET role = 'member'",), PEOPLE, FORBIDDEN, exceeds_members),
    "members may no longer write alert rules": Loss(
        ("UPDATE members SET role = 'member'", "UPDATE organizations SET alerts_member_write = false"),
        PEOPLE, FORBIDDEN, lambda entry: concerns_alerts(entry) or exceeds_members(entry),
    ),
    "the organization loses the feature": Loss(
        ("UPDATE organizations SET features = '{}'",), ALL, MISSING, requires_feature
    ),
    "membership is closed and the person leaves the team": Loss(
        ("UPDATE organizations SET open_membership = false", "UPDATE team_members SET is_active = false"),
        PEOPLE, FORBIDDEN, concerns_projects,
    ),
    "membership is closed and the person leaves the team of a new rule's project": Loss(
        ("UPDATE organizations SET open_membership = false", "UPDATE team_members SET is_active = false"),
        PEOPLE, (400, {"projects": ["Insufficient access to project"]}), creates_rule,
    ),
    "membership is closed and the team of a new rule's project is deactivated": Loss(
        ("UPDATE organizations SET open_membership = false", "UPDATE teams SET status = 'inactive'"),
        PEOPLE, (400, {"projects": ["Insufficient access to project"]}), creates_rule,
    ),
    "membership is closed and the team is deactivated": Loss(
        ("UPDATE organizations SET open_membership = false", "UPDATE teams SET status = 'inactive'"),
        PEOPLE, FORBIDDEN, concerns_projects,
    ),
    "the projects of the incident or rule are deactivated": Loss(
        ("UPDATE projects SET status = 'inactive'",), ALL, FORBIDDEN,
        lambda entry: concerns_incident(entry) or concerns_rule(entry),
    ),
    "the projects in the body are deactivated": Loss(
        ("UPDATE projects SET status = 'inactive'",), ALL, (400, {"projects": ["Invalid project"]}),
        lambda entry: "projects" in BODIES[entry.command_class.name],
    ),
    "the project of the alerts is deactivated": Loss(
        ("UPDATE projects SET status = 'inactive'",), ALL, (400, {"project": ["Invalid project"]}),
        lambda entry: entry.command_class is ReceiveAlerts,
    ),
}  # fmt: skip
"""Every loss of permission, by name."""

TABLES = ("incidents", "incident_projects", "incident_activities", "incident_subscriptions", "incident_seen",
          "events", "notifications", "alert_rules", "alert_rule_projects", "alert_rule_activities",
          "alert_rule_generations", "alert_rule_snoozes", "environments", "alert_rule_progress",
          "alert_rule_observations", "incident_triggers", "deliveries", "incident_mutes",
          "notification_preferences", "webhooks", "chat_destinations")  # fmt: skip


def requests() -> list[tuple[str, str]]:
    """Return every pair of a caller and a command that the caller may submit."""
    return [(caller, name) for name, entry in CATALOG.items() for caller in callers_of(entry)]


def callers_of(entry: CatalogEntry) -> tuple[str, ...]:
    return (PEOPLE if entry.for_people else ()) + (WITH_TOKEN[2:] if entry.for_services else ())


def affected_by(loss: Loss) -> list[tuple[str, str]]:
    return [(caller, name) for caller, name in requests() if loss.affects(caller, CATALOG[name])]


def unaffected_by(loss: Loss) -> list[tuple[str, str]]:
    """Return the requests that are affected by neither this loss nor another one with the same statements."""
    same = [request for each in LOSSES.values() if each.statements == loss.statements for request in affected_by(each)]
    return [request for request in requests() if request not in same]


def person_for(name: str) -> str:
    """Return who submits a command: Ben, an admin, or the owner if it needs more than that."""
    return "own" if CATALOG[name].permission in (WEBHOOKS, CHAT_DESTINATIONS) else "ben"


def identity_of(acme: Acme, caller: str, name: str) -> dict[str, Any]:
    person = person_for(name)
    return {
        "a person": acme.by(person),
        "a service acting for a person": acme.by_service(acting_for=person),
        "a service": acme.by_service(),
        SESSION: acme.by(person) | {"token": None, "caller": f"user:{acme.users[person]}"},
    }[caller]


def accept(harness: Harness, acme: Acme, submitted: list[tuple[str, str]]) -> dict[tuple[str, str], UUID]:
    """Insert the requests' commands into the ledger; return the command ids by request.

    Before that, insert a comment by Ben for each caller, for each request its own rule, snoozed for everyone, or its
    own webhook or chat destination, and another of each.
    """
    with harness.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE tokens SET scopes = scopes || '{org:write}' WHERE kind = 'service'")
        a_webhook(connection, acme.organizations["acme"], id=WEBHOOK)
        a_webhook_delivery(connection, WEBHOOK, id=UUID(DELIVERY))
        destinations = {
            each: a_webhook(connection, acme.organizations["acme"], id=WEBHOOK + 1 + number)
            for number, each in enumerate(submitted)
            if BODIES[each[1]].get("id") == OWN_WEBHOOK
        }
        a_chat_destination(connection, acme.organizations["acme"], id=DESTINATION)
        destinations |= {
            each: a_chat_destination(connection, acme.organizations["acme"], id=DESTINATION + 1 + number)
            for number, each in enumerate(submitted)
            if BODIES[each[1]].get("id") == OWN_DESTINATION
        }
        incident = connection.exec_driver_sql(
            "SELECT id FROM incidents WHERE identifier = 1 AND organization_id = %s", (acme.organizations["acme"],)
        ).scalar_one()
        comments = {caller: a_comment(connection, incident, by=acme.users["ben"]) for caller in ALL}
        rules = {each: a_rule(connection, acme) for each in submitted if "alertRule" in BODIES[each[1]]}
    return {
        (caller, name): harness.accept(
            command_of(name, comments[caller], rules.get((caller, name), 0), destinations.get((caller, name), 0)),
            **identity_of(acme, caller, name),
        )
        for caller, name in submitted
    }  # fmt: skip


def a_rule(connection: Connection, acme: Acme) -> int:
    action = Action(id=ACTION, type=ActionType.EMAIL, target_type=TargetType.TEAM, target="21", date_added=NOW)
    trigger = Trigger(id=TRIGGER, label="critical", threshold=100.0, date_added=NOW, actions=(action,))
    project = acme.projects["acme", "p1"]
    rule = an_alert_rule(connection, acme.organizations["acme"], projects=[project], triggers=[trigger])
    connection.execute(insert(alert_rule_snoozes).values(rule_id=rule, date_added=NOW))
    return rule


def command_of(name: str, comment: int, rule: int = 0, destination: int = 0) -> Command:
    body = dict(BODIES[name])
    if body.get("id") in (OWN_WEBHOOK, OWN_DESTINATION):
        body["id"] = destination
    if body.get("name") == OWN_NAME:
        body["name"] = str(new_id())
    if body.get("id") == OWN_COMMENT:
        body["id"] = str(comment)
    if "alertRule" in body:
        body["alertRule"] = rule
    return CATALOG[name].command_class.model_validate(body)


def apply_loss(harness: Harness, loss: Loss) -> None:
    with harness.engine.begin() as connection:
        for statement in loss.statements:
            connection.exec_driver_sql(statement)


def all_rows(harness: Harness) -> dict[str, list[str]]:
    """Return every row of every table of incident data as text, by table."""
    with harness.engine.connect() as connection:
        return {
            table: sorted(connection.exec_driver_sql(f"SELECT t::text FROM {table} t").scalars()) for table in TABLES
        }


def outcomes(harness: Harness, ids: dict[tuple[str, str], UUID]) -> dict[tuple[str, str], tuple[str, int, JSON]]:
    """Return each command's state and its outcome's status and body, by request."""
    rows = {request: harness.ledger_row(id_) for request, id_ in ids.items()}
    return {request: (row["state"], row["outcome_status"], row["outcome_body"]) for request, row in rows.items()}


@pytest.mark.parametrize("command", CATALOG)
def test_every_command_has_a_sample_body(command: str) -> None:
    assert command in BODIES, f"{command} is in tasks/commands/catalog.py; its line in BODIES is missing"
    CATALOG[command].command_class.model_validate(BODIES[command])


@pytest.mark.parametrize("command", CATALOG)
def test_every_command_is_tested_with_at_least_five_losses_of_permission(command: str) -> None:
    losses = {name for name, loss in LOSSES.items() if any(request[1] == command for request in affected_by(loss))}

    assert len(losses) > 4


def test_every_command_is_applied_if_its_caller_keeps_the_permission(harness: Harness, acme: Acme) -> None:
    ids = accept(harness, acme, requests())

    harness.apply()

    assert {request: state for request, (state, *_) in outcomes(harness, ids).items()} == dict.fromkeys(ids, "applied")


@pytest.mark.parametrize("loss_name", LOSSES)
def test_a_command_whose_permission_is_lost_after_acceptance_is_refused_and_writes_nothing(
    harness: Harness, acme: Acme, loss_name: str
) -> None:
    loss = LOSSES[loss_name]
    ids = accept(harness, acme, affected_by(loss))
    before = all_rows(harness)
    apply_loss(harness, loss)

    harness.apply()

    assert outcomes(harness, ids) == dict.fromkeys(ids, ("rejected", *loss.refusal))
    assert all_rows(harness) == before


@pytest.mark.parametrize("loss_name", [loss_name for loss_name, loss in LOSSES.items() if unaffected_by(loss)])
def test_commands_not_affected_by_a_loss_of_permission_are_applied(
    harness: Harness, acme: Acme, loss_name: str
) -> None:
    ids = accept(harness, acme, unaffected_by(LOSSES[loss_name]))
    apply_loss(harness, LOSSES[loss_name])

    harness.apply()

    assert {request: state for request, (state, *_) in outcomes(harness, ids).items()} == dict.fromkeys(ids, "applied")


def test_the_earliest_failing_check_decides_the_refusal(harness: Harness, acme: Acme) -> None:
    from_last_check_to_first = [
        "the projects of the incident or rule are deactivated",
        "the organization loses the feature",
        "the person leaves the organization",
        "the person is deactivated",
        "the token expires",
        "the token is revoked",
    ]
    refusals = []

    for loss_name in from_last_check_to_first:
        apply_loss(harness, LOSSES[loss_name])
        refusals.append(harness.execute(command_of("comment.post", 0), **acme.by("ben")))

    assert refusals == [LOSSES[loss_name].refusal for loss_name in from_last_check_to_first]


def test_after_a_demotion_only_closing_is_still_allowed(harness: Harness, acme: Acme) -> None:
    commands = [SetStatus.model_validate({"incident": 1, "status": status}) for status in (20, 2)]
    ids = [harness.accept(command, **acme.by("ben")) for command in commands]
    apply_loss(harness, LOSSES["the role is lowered"])

    harness.apply()

    assert [harness.ledger_row(id_)["outcome_status"] for id_ in ids] == [403, 200]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("UPDATE organizations SET open_membership = false; DELETE FROM team_members", {"code": "no_project_access"}),
        ("UPDATE tokens SET scopes = '{org:read}' WHERE user_id = 11", {"code": "scope_missing"}),
    ],
)
def test_the_ledger_keeps_the_reason_of_a_refusal(
    harness: Harness, acme: Acme, change: str, problem: dict[str, str]
) -> None:
    id_ = harness.accept(PostComment(incident="1", comment="Help"), **acme.by("mem"))
    with harness.engine.begin() as connection:
        connection.exec_driver_sql(change)

    harness.apply()

    row = harness.ledger_row(id_)
    assert (row["state"], row["outcome_status"]) == ("rejected", 403)
    assert row["outcome_problem"]["code"] == problem["code"]
    assert ("project:read" in row["outcome_problem"].get("scopes", ())) == (problem["code"] == "scope_missing")
