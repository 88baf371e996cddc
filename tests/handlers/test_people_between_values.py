"""What people do to a rule's incidents between its values, or in its name; and what the next value makes of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from models.alert_rules.alert_rule import alert_rule_generations, alert_rules
from tasks.commands.incidents import OpenIncident, SetStatus
from tests.builders import a_definition, a_trigger, an_action, an_alert_rule
from tests.handlers.acme import Acme
from tests.handlers.conftest import Harness
from tests.handlers.watch import ANA, BEN, MEM, ObservedRule, two_triggers

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
"""When a value arrives, where that matters."""


@pytest.fixture
def two(house: Harness, acme: Acme) -> ObservedRule:
    return two_triggers(house, acme)


def status(incident: int, number: int = 2, **fields: Any) -> SetStatus:
    return SetStatus.model_validate({"incident": incident, "status": number} | fields)


def test_a_close_by_hand_resolves_every_trigger_and_calls_everyone(
    house: Harness, acme: Acme, two: ObservedRule
) -> None:
    two.observe(60)
    [incident] = two.incidents()

    house.execute(status(incident.identifier), **acme.by("mem"))

    assert two.trigger_statuses() == {"warning": 1}
    assert two.deliveries()[1:] == [("email", MEM, "resolve", 2), ("email", ANA, "resolve", 2)]
    [closed] = two.incidents()
    assert (closed.status, closed.status_method, closed.date_closed) == (2, 1, closed.last_activity_at)


def test_a_close_by_hand_calls_for_every_project_of_the_incident(house: Harness, acme: Acme) -> None:
    watch = ObservedRule(house, acme, a_trigger("critical", 100, an_action(MEM)))
    opening = OpenIncident.model_validate({"title": "Slow", "projects": ["p1", "p2"], "alertRule": watch.rule})
    _, incident = house.execute(opening, **acme.by("own"))

    house.execute(status(incident["identifier"]), **acme.by("mem"))

    rows = watch.rows("SELECT project_id, user_id FROM deliveries ORDER BY project_id")
    projects = sorted(acme.projects["acme", slug] for slug in ("p1", "p2"))
    assert [tuple(row) for row in rows] == [(project, MEM) for project in projects]


def test_a_close_by_hand_calls_whom_the_rule_named_when_it_found_the_incident(
    house: Harness, acme: Acme, two: ObservedRule
) -> None:
    two.observe(60)
    [incident] = two.incidents()
    with house.engine.begin() as connection:
        connection.execute(
            insert(alert_rule_generations).from_select(
                ["rule_id", "generation", "definition", "date_modified"],
                select(alert_rules.c.id, alert_rules.c.generation, alert_rules.c.definition, alert_rules.c.date_added),
            )
        )
        now = a_definition(a_trigger("critical", 100, an_action(BEN))).model_dump(mode="json")
        connection.execute(update(alert_rules).values(generation=2, definition=now))

    house.execute(status(incident.identifier), **acme.by("mem"))

    assert [whom for _, whom, *_ in two.deliveries()[1:]] == [MEM, ANA]


def test_tocsin_itself_closes_without_a_person_and_subscribes_nobody(house: Harness, two: ObservedRule) -> None:
    two.observe(60)
    [incident] = two.incidents()

    code, body = house.execute(
        status(incident.identifier, comment="It is over."), organization=two.organization, token=None
    )

    assert (code, body["status"], body["statusMethod"], body["isSubscribed"]) == (200, 2, 2, False)
    [change] = two.rows("SELECT user_id, comment FROM incident_activities WHERE type = 2 AND value = '2'")
    assert tuple(change) == (None, "It is over.")
    assert house.row_counts()["incident_subscriptions"] == 0
    assert two.deliveries()[1:] == [("email", MEM, "resolve", 2), ("email", ANA, "resolve", 2)]
    assert two.events(f"incidents/{incident.identifier}")[-1]["data"]["actor"]["type"] == "system"


def test_a_close_by_a_value_does_not_call_as_one_by_hand_does(two: ObservedRule) -> None:
    two.observe(60)
    two.observe(10)

    assert ("email", ANA, "resolve", 2) not in two.deliveries()


def test_what_was_critical_by_hand_alone_ends_as_a_warning(house: Harness, acme: Acme, two: ObservedRule) -> None:
    two.observe(60)
    [incident] = two.incidents()
    house.execute(status(incident.identifier, 20), **acme.by("ben"))

    two.observe(10)

    assert two.status_changes() == [(1, 10), (10, 20), (20, 2)]
    assert two.deliveries() == [("email", MEM, "fire", 10), ("email", MEM, "resolve", 2)]


def test_a_trigger_that_fires_again_is_dated_anew(two: ObservedRule) -> None:
    two.observe(60, at=NOON)
    two.observe(120, at=NOON)
    two.observe(60, at=NOON + timedelta(minutes=1))
    two.observe(120, at=NOON + timedelta(minutes=20))

    rows = two.rows("SELECT label, date_added, date_modified FROM incident_triggers ORDER BY label")
    assert [tuple(row) for row in rows] == [
        ("critical", NOON, NOON + timedelta(minutes=20)),
        ("warning", NOON, NOON),
    ]


def test_after_a_close_by_hand_the_next_value_opens_another_one_once_it_has_cooled_down(
    house: Harness, acme: Acme, two: ObservedRule
) -> None:
    two.observe(60, at=NOON)
    [incident] = two.incidents()
    house.execute(status(incident.identifier), **acme.by("mem"))

    soon, later = two.observe(60, at=NOON + timedelta(minutes=5)), two.observe(60, at=NOON + timedelta(minutes=11))

    assert (soon[1]["ignored"], later[1]["fired"]) == ("cooling down", ["warning"])
    assert [row.identifier for row in two.incidents()] == [2, 3]


def test_a_reopened_incident_is_the_one_that_values_find(house: Harness, acme: Acme, two: ObservedRule) -> None:
    two.observe(60, at=NOON)
    [incident] = two.incidents()
    house.execute(status(incident.identifier), **acme.by("ben"))
    house.execute(status(incident.identifier, 1), **acme.by("ben"))

    _, body = two.observe(120, at=NOON + timedelta(hours=1))

    assert (body["fired"], body["incident"]["identifier"]) == (["warning", "critical"], str(incident.identifier))
    assert two.trigger_statuses() == {"warning": 0, "critical": 0}


def test_an_incident_of_what_the_rule_said_before_is_left_alone(house: Harness, two: ObservedRule) -> None:
    two.observe(120, at=NOON)
    with house.engine.begin() as connection:
        connection.execute(update(alert_rules).values(generation=2))

    # It does not cool down either: nothing has fired in this generation.
    _, body = two.observe(120, at=NOON)

    old, new = two.incidents()
    assert (old.status, new.status, new.alert_rule_generation) == (20, 20, 2)
    assert body["incident"]["identifier"] == str(new.identifier)


# --- an incident opened in a rule's name -----------------------------------------------------------------------


def test_an_incident_opened_in_a_rules_name_carries_the_rule_and_values_find_it(
    house: Harness, acme: Acme, two: ObservedRule
) -> None:
    opening = OpenIncident.model_validate({"title": "Slow", "projects": ["p1"], "alertRule": two.rule})

    code, body = house.execute(opening, **acme.by("own"))
    _, seen = two.observe(60)

    assert (code, body["type"], body["alertRule"]["id"], body["title"]) == (201, 2, str(two.rule), "Slow")
    assert (seen["incident"]["identifier"], seen["incident"]["status"]) == (body["identifier"], 10)
    assert len(two.incidents()) == 1


def test_no_incident_is_opened_in_the_name_of_a_rule_that_is_not_there_or_out_of_reach(
    house: Harness, acme: Acme, two: ObservedRule
) -> None:
    with house.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE organizations SET open_membership = false")
        elsewhere = an_alert_rule(connection, acme.organizations["closed"])
        of_p2 = an_alert_rule(connection, two.organization, projects=[acme.projects["acme", "p2"]])
        deleted = an_alert_rule(connection, two.organization, status=4)
        connection.exec_driver_sql("UPDATE tokens SET scopes = '{project:write}' WHERE name = 'bot'")
        # Mem is on the team of p1 alone.
        connection.exec_driver_sql("UPDATE members SET role = 'admin' WHERE user_id = 11")

    def opened(rule: int, **who: Any) -> Any:
        opening = OpenIncident.model_validate({"title": "Slow", "projects": ["p1"], "alertRule": rule})
        return house.execute(opening, **who or acme.by("mem"))

    invalid = (400, {"alertRule": ["Invalid alert rule"]})
    assert [opened(rule) for rule in (elsewhere, of_p2, deleted, 0, -1, 10**25)] == [invalid] * 6
    assert opened(two.rule)[0] == 201
    assert opened(of_p2, **acme.by_service())[0] == 201
