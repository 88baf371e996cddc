"""Commands that create, update and delete alert rules, and queries for their effects."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from models.alert_rules.alert_rule import alert_rule_activities, alert_rules
from models.incidents.incident import incidents
from models.messaging.command_ledger import commands
from models.messaging.outbox import events
from models.types import JSON
from tasks.commands.alert_rules import CreateRule, DeleteRule, UpdateRule
from tests.builders import an_alert_rule, an_incident
from tests.handlers.acme import Acme
from tests.harness import Harness
from tests.rule_bodies import CRITICAL, RULE

NOT_FOUND = {"detail": "The requested resource does not exist"}
FORBIDDEN = {"detail": "You do not have permission to perform this action."}


def create_rule(**fields: JSON) -> CreateRule:
    return CreateRule.model_validate(RULE | fields)


def update_rule(rule: int, **fields: JSON) -> UpdateRule:
    """Return an update that, by default, leaves the rule's projects unchanged."""
    body = {name: value for name, value in RULE.items() if name != "projects"}
    return UpdateRule.model_validate(body | {"alertRule": rule} | fields)


def delete_rule(rule: int, **fields: JSON) -> DeleteRule:
    return DeleteRule.model_validate({"alertRule": rule} | fields)


def action_body(**fields: JSON) -> dict[str, JSON]:
    return {"type": "email", "targetType": "team", "targetIdentifier": 21} | fields


def triggers_with_action(**fields: JSON) -> list[dict[str, JSON]]:
    """Return the body of one critical trigger with one action."""
    return [CRITICAL | {"actions": [action_body(**fields)]}]


def a_rule(harness: Harness, acme: Acme, *, organization: str = "acme", project: str = "p1", **facts: Any) -> int:
    with harness.engine.begin() as connection:
        projects = [acme.projects[organization, project]]
        return an_alert_rule(connection, acme.organizations[organization], projects=projects, **facts)


def an_incident_of_rule(harness: Harness, acme: Acme, rule: int, **facts: Any) -> int:
    """Insert an incident that the rule opened; return the incident's identifier."""
    with harness.engine.begin() as connection:
        projects = [acme.projects["acme", "p1"]]
        columns: dict[str, Any] = {"alert_rule_id": rule, "alert_rule_generation": 1, "projects": projects} | facts
        id_ = an_incident(connection, acme.organizations["acme"], **columns)
        return int(connection.execute(select(incidents.c.identifier).where(incidents.c.id == id_)).scalar_one())


def rule_row(harness: Harness, rule: int) -> Any:
    with harness.engine.connect() as connection:
        return connection.execute(select(alert_rules).where(alert_rules.c.id == rule)).one_or_none()


def rule_activities(harness: Harness, rule: int) -> list[tuple[int, int | None]]:
    table = alert_rule_activities
    with harness.engine.connect() as connection:
        rows = connection.execute(select(table.c.type, table.c.user_id).where(table.c.rule_id == rule).order_by("id"))
        return [tuple(each) for each in rows]


def published_events(harness: Harness, rule: int) -> list[tuple[str, int, Any]]:
    """Return type, sequence and data of the rule's events, ordered by sequence."""
    with harness.engine.connect() as connection:
        rows = connection.execute(
            select(events.c.type, events.c.sequence, events.c.body)
            .where(events.c.subject == f"alert-rules/{rule}")
            .order_by(events.c.sequence)
        )
        return [(each.type, each.sequence, each.body["data"]) for each in rows]


def follow_ups(harness: Harness) -> list[Any]:
    """Return the commands that the system actor submitted, in order."""
    with harness.engine.connect() as connection:
        return list(connection.execute(select(commands).where(commands.c.caller == "system").order_by(commands.c.seq)))
