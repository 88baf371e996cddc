"""Handlers that update and delete alert rules."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from models.alert_rules.alert_rule import alert_rule_generations, alert_rule_projects
from models.enums import IncidentStatus, StatusMethod
from models.incidents.activity import activities as incident_activities
from models.incidents.incident import incidents
from models.incidents.subscription import subscriptions
from models.notifications.delivery import deliveries
from models.types import JSON
from tests.builders import a_trigger, an_action
from tests.handlers.acme import Acme
from tests.handlers.rule_commands import (
    NOT_FOUND,
    a_rule,
    action_body,
    an_incident_of_rule,
    create_rule,
    delete_rule,
    follow_ups,
    published_events,
    rule_activities,
    rule_row,
    triggers_with_action,
    update_rule,
)
from tests.harness import Harness
from tests.rule_bodies import CRITICAL, WARNING
from workers.domain.alert_rules import AUTO_RESOLVED

# --- updating ----------------------------------------------------------------------------------------------------


def test_an_update_keeps_the_rule_id_and_begins_a_new_generation(harness: Harness, acme: Acme) -> None:
    rule = a_rule(harness, acme, name="Before")

    status, shown = harness.execute(update_rule(rule, name="After", timeWindow=30), **acme.by("ana"))

    now = rule_row(harness, rule)
    assert (status, shown["id"], shown["name"], shown["timeWindow"]) == (200, str(rule), "After", 30.0)
    assert (shown["version"], now.version, now.generation) == (2, 2, 2)
    assert shown["createdBy"] is None
    assert shown["dateModified"] > shown["dateCreated"]
    assert rule_activities(harness, rule) == [(3, 12)]
    [(type_, sequence, data)] = published_events(harness, rule)
    assert (type_, sequence, data["alertRule"]["version"]) == ("alert_rule.updated", 1, 2)


def test_an_update_that_changes_nothing_has_no_effect(harness: Harness, acme: Acme) -> None:
    _, made = harness.execute(create_rule(triggers=triggers_with_action(), projects=["p1"]), **acme.by("mem"))
    rule = int(made["id"])
    an_incident_of_rule(harness, acme, rule)
    [trigger] = made["triggers"]
    ids = {"id": trigger["id"], "actions": [action_body(id=trigger["actions"][0]["id"])]}

    status, shown = harness.execute(update_rule(rule, triggers=[CRITICAL | ids], projects=["p1"]), **acme.by("mem"))

    assert (status, shown) == (200, made)
    assert (rule_row(harness, rule).version, rule_row(harness, rule).generation) == (1, 1)
    assert follow_ups(harness) == []
    assert [type_ for type_, *_ in published_events(harness, rule)] == ["alert_rule.created"]
    assert rule_activities(harness, rule) == [(1, 11)]


def test_an_update_that_changes_only_the_project_has_an_effect(harness: Harness, acme: Acme) -> None:
    rule = a_rule(harness, acme)

    _, shown = harness.execute(update_rule(rule, projects=["p2"]), **acme.by("own"))

    assert (shown["projects"], shown["version"]) == (["p2"], 2)


def test_an_update_to_a_threshold_that_no_value_reaches_is_refused(harness: Harness, acme: Acme) -> None:
    _, made = harness.execute(create_rule(comparisonDelta=60, thresholdType=1), **acme.by("mem"))

    status, body = harness.execute(
        update_rule(int(made["id"]), thresholdType=1, triggers=[CRITICAL | {"alertThreshold": 150}]), **acme.by("mem")
    )

    assert status == 400
    assert "can never be reached" in str(body)


def test_earlier_generations_are_kept(harness: Harness, acme: Acme) -> None:
    rule = a_rule(harness, acme, name="First")

    for name in ("Second", "Third"):
        harness.accept(update_rule(rule, name=name), **acme.by("mem"))
    harness.apply()

    with harness.engine.connect() as connection:
        rows = connection.execute(select(alert_rule_generations).order_by("generation")).all()
    assert [(each.rule_id, each.generation, each.definition["name"]) for each in rows] == [
        (rule, 1, "First"),
        (rule, 2, "Second"),
    ]
    assert rule_row(harness, rule).generation == 3


def test_fields_absent_from_an_update_stay_unchanged(harness: Harness, acme: Acme) -> None:
    full = {
        "environment": "production", "owner": "team:21", "description": "Look at the pool.", "resolveThreshold": 20,
        "thresholdPeriod": 3, "comparisonDelta": 60, "excludedProjects": ["p2"], "includeAllProjects": True,
        "dataset": "transactions", "activationCondition": 1, "monitorType": 1,
    }  # fmt: skip
    _, made = harness.execute(create_rule(**full), **acme.by("mem"))

    status, shown = harness.execute(update_rule(int(made["id"]), triggers=[CRITICAL]), **acme.by("mem"))

    moving = {"dateModified", "triggers", "version"}
    assert status == 200
    assert {name: shown[name] for name in shown if name not in moving} == {
        name: made[name] for name in made if name not in moving
    }
    definition = rule_row(harness, int(made["id"])).definition
    assert (definition["excluded_projects"], definition["resolve_threshold"]) == (["p2"], 120.0)


def test_null_clears_optional_fields(harness: Harness, acme: Acme) -> None:
    full = {
        "environment": "production", "owner": "user:12", "description": "Look.", "resolveThreshold": 20,
        "comparisonDelta": 60, "activationCondition": 0,
    }  # fmt: skip
    _, made = harness.execute(create_rule(**full), **acme.by("mem"))

    _, shown = harness.execute(update_rule(int(made["id"]), **dict.fromkeys(full)), **acme.by("mem"))

    assert {name: shown[name] for name in full} == dict.fromkeys(full) | {"description": ""}


def test_a_blank_description_leaves_the_description_unchanged(harness: Harness, acme: Acme) -> None:
    _, made = harness.execute(create_rule(description="Look."), **acme.by("mem"))

    _, shown = harness.execute(update_rule(int(made["id"]), description=""), **acme.by("mem"))

    assert shown["description"] == "Look."


def test_the_monitor_type_cannot_be_changed(harness: Harness, acme: Acme) -> None:
    _, made = harness.execute(create_rule(monitorType=1), **acme.by("mem"))

    _, shown = harness.execute(update_rule(int(made["id"]), monitorType=0), **acme.by("mem"))

    assert shown["monitorType"] == 1


def test_an_update_replaces_the_projects_only_if_it_names_any(harness: Harness, acme: Acme) -> None:
    rule = a_rule(harness, acme)

    _, kept = harness.execute(update_rule(rule), **acme.by("mem"))
    _, moved = harness.execute(update_rule(rule, projects=["p2"]), **acme.by("mem"))
    _, empty = harness.execute(update_rule(rule, projects=[]), **acme.by("mem"))

    assert [shown["projects"] for shown in (kept, moved, empty)] == [["p1"], ["p2"], ["p2"]]
    with harness.engine.connect() as connection:
        rows = connection.execute(select(alert_rule_projects)).all()
    assert rows == [(rule, acme.projects["acme", "p2"])]


def test_an_update_keeps_triggers_and_actions_with_an_id_and_replaces_the_others(harness: Harness, acme: Acme) -> None:
    _, made = harness.execute(
        create_rule(triggers=[CRITICAL | {"actions": [action_body(), action_body(targetIdentifier=22)]}, WARNING]),
        **acme.by("mem"),
    )
    [critical, _] = made["triggers"]
    kept = critical["actions"][1]
    again = CRITICAL | {
        "id": critical["id"],
        "alertThreshold": 90,
        "actions": [
            action_body(id=kept["id"], targetType="user", targetIdentifier="12"),
            action_body(type="chat", targetType="specific", targetIdentifier="#ops"),
        ],
    }

    status, shown = harness.execute(update_rule(int(made["id"]), triggers=[again]), **acme.by("mem"))

    [trigger] = shown["triggers"]
    assert status == 200
    assert (trigger["id"], trigger["alertThreshold"]) == (critical["id"], 90.0)
    assert trigger["dateCreated"] == critical["dateCreated"]
    [first, second] = trigger["actions"]
    assert (first["id"], first["targetType"], first["desc"]) == (
        kept["id"],
        "user",
        "Send a notification to ana@x.test",
    )
    assert (second["type"], second["targetIdentifier"]) == ("chat", "#ops")
    assert int(second["id"]) > int(kept["id"])


def test_a_trigger_updated_without_an_actions_field_keeps_its_actions(harness: Harness, acme: Acme) -> None:
    _, made = harness.execute(create_rule(triggers=triggers_with_action()), **acme.by("mem"))
    [trigger] = made["triggers"]

    _, kept = harness.execute(
        update_rule(int(made["id"]), triggers=[CRITICAL | {"id": trigger["id"]}]), **acme.by("mem")
    )
    none = CRITICAL | {"id": trigger["id"], "actions": []}
    _, emptied = harness.execute(update_rule(int(made["id"]), triggers=[none]), **acme.by("mem"))

    assert [each["triggers"][0]["actions"] for each in (kept, emptied)] == [trigger["actions"], []]


@pytest.mark.parametrize(
    ("fields", "errors"),
    [
        ({"triggers": [CRITICAL | {"id": 7}]}, {"nonFieldErrors": ["Trigger does not exist"]}),
        ({"queryType": 1}, {"nonFieldErrors": [
            "Invalid dataset for this query type. Valid datasets are ['performancemetrics', 'transactions']"]}),
        ({"eventTypes": ["transaction"]}, {"nonFieldErrors": [
            "Invalid event types for this dataset. Valid event types are ['default', 'error']"]}),
        ({"triggers": [CRITICAL | {"alertThreshold": 10}]}, {"nonFieldErrors": [
            "critical alert threshold must be above resolution threshold"]}),
        ({"owner": "user:999"}, {"owner": ["User does not exist"]}),
    ],
)  # fmt: skip
def test_an_update_is_validated_together_with_the_unchanged_fields(
    harness: Harness, acme: Acme, fields: dict[str, JSON], errors: JSON
) -> None:
    rule = a_rule(harness, acme, resolve_threshold=20.0)

    outcome = harness.execute(update_rule(rule, **fields), **acme.by("mem"))

    assert outcome == (400, errors)
    assert (rule_row(harness, rule).version, follow_ups(harness), published_events(harness, rule)) == (1, [], [])


def test_a_stale_expected_version_is_refused(harness: Harness, acme: Acme) -> None:
    rule = a_rule(harness, acme)

    first = harness.execute(update_rule(rule, name="One"), expected_version=1, **acme.by("mem"))
    second = harness.execute(update_rule(rule, name="Two"), expected_version=1, **acme.by("ana"))
    deleted = harness.execute(delete_rule(rule), expected_version=1, **acme.by("ana"))

    stale = (412, {"detail": "The resource has changed since you read it."})
    assert (first[0], second, deleted) == (200, stale, stale)
    assert rule_row(harness, rule).definition["name"] == "One"


# --- incidents closed by a change --------------------------------------------------------------------------------


@pytest.mark.parametrize("build_command", [update_rule, delete_rule])
def test_updating_or_deleting_a_rule_closes_its_open_incidents(
    harness: Harness, acme: Acme, build_command: Any
) -> None:
    rule, other = a_rule(harness, acme), a_rule(harness, acme)
    open_ = [an_incident_of_rule(harness, acme, rule, status=status) for status in (1, 10, 20)]
    an_incident_of_rule(harness, acme, rule, status=IncidentStatus.CLOSED)
    an_incident_of_rule(harness, acme, other)

    harness.execute(build_command(rule), **acme.by("mem"))

    commands = follow_ups(harness)
    assert [each.subject for each in commands] == [f"rule:{rule}"] * len(open_)
    assert {each.type for each in commands} == {"incident.set_status"}
    assert [each.payload for each in commands] == [
        {"incident": str(number), "status": 2, "comment": AUTO_RESOLVED} for number in open_
    ]
    assert {(each.token_id, each.user_id) for each in commands} == {(None, None)}


@pytest.mark.parametrize("build_command", [update_rule, delete_rule])
def test_an_incident_closed_by_a_rule_change_records_the_reason_and_no_author(
    harness: Harness, acme: Acme, build_command: Any
) -> None:
    rule = a_rule(harness, acme, triggers=[a_trigger("critical", 100.0, an_action(12))])
    number = an_incident_of_rule(harness, acme, rule, status=IncidentStatus.CRITICAL)

    harness.execute(build_command(rule), **acme.by("mem"))
    harness.apply()

    with harness.engine.connect() as connection:
        incident = connection.execute(
            select(incidents).where(
                incidents.c.organization_id == acme.organizations["acme"], incidents.c.identifier == number
            )
        ).one()
        activity = connection.execute(
            select(incident_activities).where(incident_activities.c.incident_id == incident.id)
        ).one()
        delivery = connection.execute(select(deliveries)).one()
        subscribed = connection.execute(select(subscriptions)).all()
    assert (incident.status, incident.status_method) == (IncidentStatus.CLOSED, StatusMethod.RULE_UPDATED)
    assert (activity.user_id, activity.previous_value, activity.value) == (None, "20", "2")
    assert activity.comment == AUTO_RESOLVED
    assert (delivery.user_id, delivery.method, delivery.status, delivery.activity_id) == (12, "resolve", 2, activity.id)
    assert subscribed == []


def test_two_updates_in_one_batch_close_an_incident_once(harness: Harness, acme: Acme) -> None:
    rule = a_rule(harness, acme)
    number = an_incident_of_rule(harness, acme, rule)

    ids = [harness.accept(update_rule(rule, name=name), **acme.by("mem")) for name in ("One", "Two")]
    harness.apply()

    assert [harness.ledger_row(id_)["outcome_status"] for id_ in ids] == [200, 200]
    assert [each.payload["incident"] for each in follow_ups(harness)] == [str(number)]


def test_the_first_update_of_a_rule_with_incidents_records_a_snapshot(harness: Harness, acme: Acme) -> None:
    rule = a_rule(harness, acme)
    an_incident_of_rule(harness, acme, rule, status=IncidentStatus.CLOSED)

    for _ in range(2):
        harness.execute(update_rule(rule), **acme.by("mem"))

    assert rule_activities(harness, rule) == [(6, 11), (3, 11), (3, 11)]


# --- deleting ----------------------------------------------------------------------------------------------------


def test_deleting_a_rule_without_incidents_deletes_its_row(harness: Harness, acme: Acme) -> None:
    rule = a_rule(harness, acme)

    outcome = harness.execute(delete_rule(rule), **acme.by("mem"))

    assert outcome == (204, None)
    assert (rule_row(harness, rule), rule_activities(harness, rule)) == (None, [])
    [(type_, sequence, data)] = published_events(harness, rule)
    assert (type_, sequence, data["alertRule"]["version"], data["projects"]) == ("alert_rule.deleted", 1, 2, ["p1"])


def test_deleting_a_rule_with_incidents_hides_it_and_keeps_its_row(harness: Harness, acme: Acme) -> None:
    rule = a_rule(harness, acme)
    an_incident_of_rule(harness, acme, rule, status=IncidentStatus.CLOSED)

    outcome = harness.execute(delete_rule(rule), **acme.by("mem"))

    assert outcome == (204, None)
    assert (rule_row(harness, rule).status, rule_row(harness, rule).version) == (4, 2)
    assert rule_activities(harness, rule) == [(2, 11)]


@pytest.mark.parametrize("build_command", [update_rule, delete_rule])
def test_a_deleted_rule_is_404(harness: Harness, acme: Acme, build_command: Any) -> None:
    rule = a_rule(harness, acme)
    an_incident_of_rule(harness, acme, rule, status=IncidentStatus.CLOSED)
    ids = [harness.accept(each, **acme.by("mem")) for each in (delete_rule(rule), build_command(rule))]

    harness.apply()

    assert [harness.ledger_row(id_)["outcome_status"] for id_ in ids] == [204, 404]
    assert harness.execute(build_command(rule), **acme.by("mem")) == (404, NOT_FOUND)


def test_without_the_incidents_feature_rules_can_only_be_deleted(harness: Harness, acme: Acme) -> None:
    rule = a_rule(harness, acme, organization="plain", project="n1")
    mem = acme.by("mem", organization="plain")

    changed = harness.execute(update_rule(rule), **mem)
    made = harness.execute(create_rule(projects=["n1"]), **mem)
    deleted = harness.execute(delete_rule(rule), **mem)

    assert (changed, made, deleted) == ((404, NOT_FOUND), (404, NOT_FOUND), (204, None))
