"""Incidents of a rule that people close, reopen or open by hand, and the effect on later observations."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from models.alert_rules.alert_rule import alert_rule_generations, alert_rules
from tasks.commands.incidents import OpenIncident, SetStatus
from tests.builders import a_definition, a_trigger, an_action, an_alert_rule
from tests.handlers.acme import Acme
from tests.handlers.observed_rule import ANA, BEN, MEM, ObservedRule, rule_with_two_triggers
from tests.harness import Harness

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
"""The time at which an observation is accepted, in tests that depend on it."""


@pytest.fixture
def rule(harness: Harness, acme: Acme) -> ObservedRule:
    return rule_with_two_triggers(harness, acme)


def set_status(incident: int, number: int = 2, **fields: Any) -> SetStatus:
    return SetStatus.model_validate({"incident": incident, "status": number} | fields)


def test_a_manual_close_resolves_every_trigger_and_notifies_every_target(
    harness: Harness, acme: Acme, rule: ObservedRule
) -> None:
    rule.observe(60)
    [incident] = rule.incidents()

    harness.execute(set_status(incident.identifier), **acme.by("mem"))

    assert rule.trigger_statuses() == {"warning": 1}
    assert rule.deliveries()[1:] == [("email", MEM, "resolve", 2), ("email", ANA, "resolve", 2)]
    [closed] = rule.incidents()
    assert (closed.status, closed.status_method, closed.date_closed) == (2, 1, closed.last_activity_at)


def test_a_manual_close_plans_deliveries_for_every_project_of_the_incident(harness: Harness, acme: Acme) -> None:
    rule = ObservedRule(harness, acme, a_trigger("critical", 100, an_action(MEM)))
    open_command = OpenIncident.model_validate({"title": "Slow", "projects": ["p1", "p2"], "alertRule": rule.rule_id})
    _, incident = harness.execute(open_command, **acme.by("own"))

    harness.execute(set_status(incident["identifier"]), **acme.by("mem"))

    rows = rule.rows("SELECT project_id, user_id FROM deliveries ORDER BY project_id")
    projects = sorted(acme.projects["acme", slug] for slug in ("p1", "p2"))
    assert [tuple(row) for row in rows] == [(project, MEM) for project in projects]


def test_a_manual_close_uses_the_actions_of_the_incidents_generation(
    harness: Harness, acme: Acme, rule: ObservedRule
) -> None:
    rule.observe(60)
    [incident] = rule.incidents()
    with harness.engine.begin() as connection:
        connection.execute(
            insert(alert_rule_generations).from_select(
                ["rule_id", "generation", "definition", "date_modified"],
                select(alert_rules.c.id, alert_rules.c.generation, alert_rules.c.definition, alert_rules.c.date_added),
            )
        )
        now = a_definition(a_trigger("critical", 100, an_action(BEN))).model_dump(mode="json")
        connection.execute(update(alert_rules).values(generation=2, definition=now))

    harness.execute(set_status(incident.identifier), **acme.by("mem"))

    assert [target for _, target, *_ in rule.deliveries()[1:]] == [MEM, ANA]


def test_a_close_by_the_system_has_no_author_and_subscribes_nobody(harness: Harness, rule: ObservedRule) -> None:
    rule.observe(60)
    [incident] = rule.incidents()

    code, body = harness.execute(
        set_status(incident.identifier, comment="It is over."), organization=rule.organization, token=None
    )

    assert (code, body["status"], body["statusMethod"], body["isSubscribed"]) == (200, 2, 2, False)
    [change] = rule.rows("SELECT user_id, comment FROM incident_activities WHERE type = 2 AND value = '2'")
    assert tuple(change) == (None, "It is over.")
    assert harness.row_counts()["incident_subscriptions"] == 0
    assert rule.deliveries()[1:] == [("email", MEM, "resolve", 2), ("email", ANA, "resolve", 2)]
    assert rule.events(f"incidents/{incident.identifier}")[-1]["data"]["actor"]["type"] == "system"


def test_a_close_by_an_observation_skips_targets_that_were_not_notified_before(rule: ObservedRule) -> None:
    rule.observe(60)
    rule.observe(10)

    assert ("email", ANA, "resolve", 2) not in rule.deliveries()


def test_an_incident_manually_set_to_critical_notifies_only_warning_targets_when_it_resolves(
    harness: Harness, acme: Acme, rule: ObservedRule
) -> None:
    rule.observe(60)
    [incident] = rule.incidents()
    harness.execute(set_status(incident.identifier, 20), **acme.by("ben"))

    rule.observe(10)

    assert rule.status_changes() == [(1, 10), (10, 20), (20, 2)]
    assert rule.deliveries() == [("email", MEM, "fire", 10), ("email", MEM, "resolve", 2)]


def test_a_trigger_that_fires_again_gets_a_new_modification_date(rule: ObservedRule) -> None:
    rule.observe(60, at=NOON)
    rule.observe(120, at=NOON)
    rule.observe(60, at=NOON + timedelta(minutes=1))
    rule.observe(120, at=NOON + timedelta(minutes=20))

    rows = rule.rows("SELECT label, date_added, date_modified FROM incident_triggers ORDER BY label")
    assert [tuple(row) for row in rows] == [
        ("critical", NOON, NOON + timedelta(minutes=20)),
        ("warning", NOON, NOON),
    ]


def test_after_a_manual_close_the_next_incident_opens_only_after_the_cooldown(
    harness: Harness, acme: Acme, rule: ObservedRule
) -> None:
    rule.observe(60, at=NOON)
    [incident] = rule.incidents()
    harness.execute(set_status(incident.identifier), **acme.by("mem"))

    soon, later = rule.observe(60, at=NOON + timedelta(minutes=5)), rule.observe(60, at=NOON + timedelta(minutes=11))

    assert (soon[1]["ignored"], later[1]["fired"]) == ("cooling down", ["warning"])
    assert [row.identifier for row in rule.incidents()] == [2, 3]


def test_observations_update_a_reopened_incident(harness: Harness, acme: Acme, rule: ObservedRule) -> None:
    rule.observe(60, at=NOON)
    [incident] = rule.incidents()
    harness.execute(set_status(incident.identifier), **acme.by("ben"))
    harness.execute(set_status(incident.identifier, 1), **acme.by("ben"))

    _, body = rule.observe(120, at=NOON + timedelta(hours=1))

    assert (body["fired"], body["incident"]["identifier"]) == (["warning", "critical"], str(incident.identifier))
    assert rule.trigger_statuses() == {"warning": 0, "critical": 0}


def test_observations_leave_incidents_of_an_earlier_generation_unchanged(harness: Harness, rule: ObservedRule) -> None:
    rule.observe(120, at=NOON)
    with harness.engine.begin() as connection:
        connection.execute(update(alert_rules).values(generation=2))

    # There is no cooldown either, because no trigger has fired in this generation.
    _, body = rule.observe(120, at=NOON)

    old, new = rule.incidents()
    assert (old.status, new.status, new.alert_rule_generation) == (20, 20, 2)
    assert body["incident"]["identifier"] == str(new.identifier)


# --- incidents opened for a rule -------------------------------------------------------------------------------


def test_observations_update_an_incident_opened_manually_for_the_rule(
    harness: Harness, acme: Acme, rule: ObservedRule
) -> None:
    open_command = OpenIncident.model_validate({"title": "Slow", "projects": ["p1"], "alertRule": rule.rule_id})

    code, body = harness.execute(open_command, **acme.by("own"))
    _, seen = rule.observe(60)

    assert (code, body["type"], body["alertRule"]["id"], body["title"]) == (201, 2, str(rule.rule_id), "Slow")
    assert (seen["incident"]["identifier"], seen["incident"]["status"]) == (body["identifier"], 10)
    assert len(rule.incidents()) == 1


def test_an_incident_cannot_be_opened_for_a_missing_or_inaccessible_rule(
    harness: Harness, acme: Acme, rule: ObservedRule
) -> None:
    with harness.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE organizations SET open_membership = false")
        elsewhere = an_alert_rule(connection, acme.organizations["closed"])
        of_p2 = an_alert_rule(connection, rule.organization, projects=[acme.projects["acme", "p2"]])
        deleted = an_alert_rule(connection, rule.organization, status=4)
        connection.exec_driver_sql("UPDATE tokens SET scopes = '{project:write}' WHERE name = 'bot'")
        # Mem has access to p1, but not to p2.
        connection.exec_driver_sql("UPDATE members SET role = 'admin' WHERE user_id = 11")

    def opened(rule: int, **who: Any) -> Any:
        open_command = OpenIncident.model_validate({"title": "Slow", "projects": ["p1"], "alertRule": rule})
        return harness.execute(open_command, **who or acme.by("mem"))

    invalid = (400, {"alertRule": ["Invalid alert rule"]})
    assert [opened(rule) for rule in (elsewhere, of_p2, deleted, 0, -1, 10**25)] == [invalid] * 6
    assert opened(rule.rule_id)[0] == 201
    assert opened(of_p2, **acme.by_service())[0] == 201
