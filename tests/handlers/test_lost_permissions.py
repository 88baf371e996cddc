"""Every command × every way to lose the right to it between its acceptance and its application.

Generated from the catalog: a command that is new there lacks its line in ``ORDERS``, and the first test says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import insert
from sqlalchemy.engine import Connection

from models.alert_rules.alert_rule import Action, Trigger, alert_rule_snoozes
from models.alert_rules.enums import ActionType, TargetType
from models.enums import JSON
from models.scopes import MEMBER_SCOPES
from tasks.commands.alert_rules import CreateRule, RuleCommand
from tasks.commands.alertmanager import ReceiveAlerts
from tasks.commands.base import Command
from tasks.commands.catalog import CATALOG, CatalogEntry
from tasks.commands.incidents import OpenIncident, SetStatus
from tasks.commands.observations import ObserveMetric
from tests.builders import NOW, a_comment, an_alert_rule
from tests.handlers.acme import Acme
from tests.handlers.conftest import Harness

TRIGGER, ACTION = 7, 8
ONE_OF_OURS: dict[str, JSON] = {"alertRule": "the request's own"}
TELLING: dict[str, JSON] = {"type": "email", "targetType": "team", "targetIdentifier": 22}
RULE: dict[str, JSON] = {
    "name": "Errors", "aggregate": "count()", "query": "", "timeWindow": 10, "thresholdType": 0, "environment": "prod",
    "triggers": [{"label": "critical", "alertThreshold": 100}],
}  # fmt: skip
ORDERS: dict[str, dict[str, JSON]] = {
    "incident.open": {"title": "Disk full", "projects": ["p1"]},
    "alertmanager.receive": {"dedupKey": "{}:{}", "state": "firing", "title": "Disk full", "project": "p1"},
    "incident.set_status": {"incident": "1", "status": 2},
    "incident.mark_seen": {"incident": "1"},
    "incident.subscribe": {"incident": "1"},
    "incident.unsubscribe": {"incident": "1"},
    "comment.post": {"incident": "1", "comment": "Look", "mentions": ["ana"]},
    "comment.edit": {"incident": "1", "id": "the caller's own", "comment": "Look again"},
    "comment.delete": {"incident": "1", "id": "the caller's own"},
    "notification.read": {"upTo": 1},
    "alert_rule.create": RULE | {"projects": ["p1"]},
    "alert_rule.update": RULE | ONE_OF_OURS,
    "alert_rule.delete": ONE_OF_OURS,
    "alert_rule.snooze": ONE_OF_OURS | {"target": "me"},
    "alert_rule.unsnooze": ONE_OF_OURS,
    "trigger.create": ONE_OF_OURS | {"label": "warning", "alertThreshold": 50},
    "trigger.update": ONE_OF_OURS | {"id": TRIGGER, "alertThreshold": 200},
    "trigger.delete": ONE_OF_OURS | {"id": TRIGGER},
    "trigger_action.create": ONE_OF_OURS | {"trigger": TRIGGER, "action": TELLING},
    "trigger_action.update": ONE_OF_OURS | {"trigger": TRIGGER, "id": ACTION, "action": TELLING},
    "trigger_action.delete": ONE_OF_OURS | {"trigger": TRIGGER, "id": ACTION},
    "metric.observe": ONE_OF_OURS | {"project": "p1", "value": 101, "timestamp": "2026-11-23T10:00:00Z"},
}
"""What Ben, who may do all of it, asks for; by the command's name."""

ALL = "in person", "through a program", "a program by itself"
PEOPLE = ALL[:2]
FORBIDDEN = 403, {"detail": "You do not have permission to perform this action."}
MISSING = 404, {"detail": "The requested resource does not exist"}


def unauthenticated(text: str) -> tuple[int, JSON]:
    return 401, {"detail": text}


def of_an_incident(entry: CatalogEntry) -> bool:
    return "incident" in entry.command_class.model_fields


def of_a_rule(entry: CatalogEntry) -> bool:
    return "alertRule" in ORDERS[entry.command_class.name]


def of_projects(entry: CatalogEntry) -> bool:
    return of_an_incident(entry) or of_a_rule(entry) or entry.command_class is OpenIncident


def of_a_new_rule(entry: CatalogEntry) -> bool:
    return entry.command_class is CreateRule


def of_alerts(entry: CatalogEntry) -> bool:
    return issubclass(entry.command_class, (RuleCommand, ObserveMetric))


def beyond_members(entry: CatalogEntry) -> bool:
    return not entry.permission.scopes[entry.method] & MEMBER_SCOPES


def of_the_plan(entry: CatalogEntry) -> bool:
    return entry.permission.required_feature(entry.method) is not None


def of_anything(_entry: CatalogEntry) -> bool:
    return True


@dataclass(frozen=True)
class Loss:
    """A right that goes: by which statements, for whom it matters, for which commands, and what they hear."""

    statements: tuple[str, ...]
    callers: tuple[str, ...]
    answer: tuple[int, JSON]
    matters: Callable[[CatalogEntry], bool] = of_anything

    def touches(self, caller: str, entry: CatalogEntry) -> bool:
        return caller in self.callers and self.matters(entry)


LOSSES = {
    "the token is revoked": Loss(
        ("UPDATE tokens SET revoked_at = now()",), ALL, unauthenticated("Invalid token")
    ),
    "the token expires": Loss(("UPDATE tokens SET expires_at = now()",), ALL, unauthenticated("Token expired")),
    "the person is switched off": Loss(
        ("UPDATE users SET is_active = false",), ALL[:1], unauthenticated("User inactive or deleted")
    ),
    "the person a program acts for is switched off": Loss(
        ("UPDATE users SET is_active = false",), ALL[1:2], FORBIDDEN
    ),
    "the program may act for nobody": Loss(("UPDATE tokens SET act_as = false",), ALL[1:2], FORBIDDEN),
    "the token's scopes shrink": Loss(("UPDATE tokens SET scopes = '{openid}'",), ALL, FORBIDDEN),
    "the person leaves the organization": Loss(("DELETE FROM members",), PEOPLE, FORBIDDEN),
    "the role is lowered": Loss(("UPDATE members SET role = 'member'",), PEOPLE, FORBIDDEN, beyond_members),
    "plain members write no alerts any more": Loss(
        ("UPDATE members SET role = 'member'", "UPDATE organizations SET alerts_member_write = false"),
        PEOPLE, FORBIDDEN, lambda entry: of_alerts(entry) or beyond_members(entry),
    ),
    "the plan loses incidents": Loss(("UPDATE organizations SET features = '{}'",), ALL, MISSING, of_the_plan),
    "membership is closed and the team left": Loss(
        ("UPDATE organizations SET open_membership = false", "UPDATE team_members SET is_active = false"),
        PEOPLE, FORBIDDEN, of_projects,
    ),
    "membership is closed and the team of a new rule's project left": Loss(
        ("UPDATE organizations SET open_membership = false", "UPDATE team_members SET is_active = false"),
        PEOPLE, (400, {"projects": ["Insufficient access to project"]}), of_a_new_rule,
    ),
    "membership is closed and the team of a new rule's project switched off": Loss(
        ("UPDATE organizations SET open_membership = false", "UPDATE teams SET status = 'inactive'"),
        PEOPLE, (400, {"projects": ["Insufficient access to project"]}), of_a_new_rule,
    ),
    "membership is closed and the team switched off": Loss(
        ("UPDATE organizations SET open_membership = false", "UPDATE teams SET status = 'inactive'"),
        PEOPLE, FORBIDDEN, of_projects,
    ),
    "the incident's or the rule's projects are switched off": Loss(
        ("UPDATE projects SET status = 'inactive'",), ALL, FORBIDDEN,
        lambda entry: of_an_incident(entry) or of_a_rule(entry),
    ),
    "the named projects are switched off": Loss(
        ("UPDATE projects SET status = 'inactive'",), ALL, (400, {"projects": ["Invalid project"]}),
        lambda entry: "projects" in ORDERS[entry.command_class.name],
    ),
    "the alerts' project is switched off": Loss(
        ("UPDATE projects SET status = 'inactive'",), ALL, (400, {"project": ["Invalid project"]}),
        lambda entry: entry.command_class is ReceiveAlerts,
    ),
}  # fmt: skip
"""Every way, by its name."""

TABLES = ("incidents", "incident_projects", "incident_activities", "incident_subscriptions", "incident_seen",
          "events", "notifications", "alert_rules", "alert_rule_projects", "alert_rule_activities",
          "alert_rule_generations", "alert_rule_snoozes", "environments", "alert_rule_progress",
          "alert_rule_observations", "incident_triggers", "deliveries")  # fmt: skip


def requests() -> list[tuple[str, str]]:
    """Every command by everyone who may give it: caller, command."""
    return [(caller, name) for name, entry in CATALOG.items() for caller in callers_of(entry)]


def callers_of(entry: CatalogEntry) -> tuple[str, ...]:
    return (PEOPLE if entry.for_people else ()) + (ALL[2:] if entry.for_services else ())


def touched_by(loss: Loss) -> list[tuple[str, str]]:
    return [(caller, name) for caller, name in requests() if loss.touches(caller, CATALOG[name])]


def spared_by(loss: Loss) -> list[tuple[str, str]]:
    """Requests that this loss does not concern, nor any other that comes about in the same way."""
    alike = [asked for each in LOSSES.values() if each.statements == loss.statements for asked in touched_by(each)]
    return [asked for asked in requests() if asked not in alike]


def who(acme: Acme, caller: str) -> dict[str, Any]:
    return {
        "in person": acme.by("ben"),
        "through a program": acme.by_service(acting_for="ben"),
        "a program by itself": acme.by_service(),
    }[caller]


def accept(harness: Harness, acme: Acme, asked: list[tuple[str, str]]) -> dict[tuple[str, str], Any]:
    """All of it in the ledger; command ids by caller and command.

    Each caller has a comment of Ben's to change, and each request a rule of its own, silent for everyone.
    """
    with harness.engine.begin() as connection:
        incident = connection.exec_driver_sql(
            "SELECT id FROM incidents WHERE identifier = 1 AND organization_id = %s", (acme.organizations["acme"],)
        ).scalar_one()
        comments = {caller: a_comment(connection, incident, by=acme.users["ben"]) for caller in ALL}
        rules = {each: a_rule(connection, acme) for each in asked if "alertRule" in ORDERS[each[1]]}
    return {
        (caller, name): harness.accept(
            order(name, comments[caller], rules.get((caller, name), 0)), **who(acme, caller)
        )
        for caller, name in asked
    }  # fmt: skip


def a_rule(connection: Connection, acme: Acme) -> int:
    action = Action(id=ACTION, type=ActionType.EMAIL, target_type=TargetType.TEAM, target="21", date_added=NOW)
    trigger = Trigger(id=TRIGGER, label="critical", threshold=100.0, date_added=NOW, actions=(action,))
    project = acme.projects["acme", "p1"]
    rule = an_alert_rule(connection, acme.organizations["acme"], projects=[project], triggers=[trigger])
    connection.execute(insert(alert_rule_snoozes).values(rule_id=rule, date_added=NOW))
    return rule


def order(name: str, comment: int, rule: int = 0) -> Command:
    body = dict(ORDERS[name])
    if body.get("id") == "the caller's own":
        body["id"] = str(comment)
    if "alertRule" in body:
        body["alertRule"] = rule
    return CATALOG[name].command_class.model_validate(body)


def lose(harness: Harness, loss: Loss) -> None:
    with harness.engine.begin() as connection:
        for statement in loss.statements:
            connection.exec_driver_sql(statement)


def everything(harness: Harness) -> dict[str, list[str]]:
    """Every row of incident data, as text."""
    with harness.engine.connect() as connection:
        return {
            table: sorted(connection.exec_driver_sql(f"SELECT t::text FROM {table} t").scalars()) for table in TABLES
        }


def endings(harness: Harness, ids: dict[tuple[str, str], Any]) -> dict[tuple[str, str], tuple[str, int, JSON]]:
    rows = {asked: harness.ledger_row(id_) for asked, id_ in ids.items()}
    return {asked: (row["state"], row["outcome_status"], row["outcome_body"]) for asked, row in rows.items()}


@pytest.mark.parametrize("command", CATALOG)
def test_every_command_has_a_sample_body(command: str) -> None:
    assert command in ORDERS, f"{command} is in tasks/commands/catalog.py; its line in ORDERS is missing"
    CATALOG[command].command_class.model_validate(ORDERS[command])


@pytest.mark.parametrize("command", CATALOG)
def test_every_command_depends_on_more_than_its_token(command: str) -> None:
    ways = {name for name, loss in LOSSES.items() if any(asked[1] == command for asked in touched_by(loss))}

    assert len(ways) > 4


def test_every_command_is_applied_while_its_permission_holds(harness: Harness, acme: Acme) -> None:
    ids = accept(harness, acme, requests())

    harness.apply()

    assert {asked: state for asked, (state, *_) in endings(harness, ids).items()} == dict.fromkeys(ids, "applied")


@pytest.mark.parametrize("way", LOSSES)
def test_a_permission_lost_after_acceptance_is_refused_and_nothing_is_written(
    harness: Harness, acme: Acme, way: str
) -> None:
    loss = LOSSES[way]
    ids = accept(harness, acme, touched_by(loss))
    before = everything(harness)
    lose(harness, loss)

    harness.apply()

    assert endings(harness, ids) == dict.fromkeys(ids, ("rejected", *loss.answer))
    assert everything(harness) == before


@pytest.mark.parametrize("way", [way for way, loss in LOSSES.items() if spared_by(loss)])
def test_commands_that_a_loss_does_not_affect_are_applied(harness: Harness, acme: Acme, way: str) -> None:
    ids = accept(harness, acme, spared_by(LOSSES[way]))
    lose(harness, LOSSES[way])

    harness.apply()

    assert {asked: state for asked, (state, *_) in endings(harness, ids).items()} == dict.fromkeys(ids, "applied")


def test_the_earliest_failing_check_decides_the_answer(harness: Harness, acme: Acme) -> None:
    from_the_last_step_to_the_first = [
        "the incident's or the rule's projects are switched off",
        "the plan loses incidents",
        "the person leaves the organization",
        "the person is switched off",
        "the token expires",
        "the token is revoked",
    ]
    heard = []

    for way in from_the_last_step_to_the_first:
        lose(harness, LOSSES[way])
        heard.append(harness.execute(order("comment.post", 0), **acme.by("ben")))

    assert heard == [LOSSES[way].answer for way in from_the_last_step_to_the_first]


def test_after_a_demotion_only_closing_is_still_allowed(harness: Harness, acme: Acme) -> None:
    orders = [SetStatus.model_validate({"incident": 1, "status": status}) for status in (20, 2)]
    ids = [harness.accept(each, **acme.by("ben")) for each in orders]
    lose(harness, LOSSES["the role is lowered"])

    harness.apply()

    assert [harness.ledger_row(id_)["outcome_status"] for id_ in ids] == [403, 200]
