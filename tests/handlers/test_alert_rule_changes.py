"""Alert rules as a worker changes and ends them, on a real database."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from models.alert_rules.alert_rule import AUTO_RESOLVED, alert_rule_generations, alert_rule_projects
from models.enums import JSON, IncidentStatus, StatusMethod
from models.incidents.activity import activities as incident_activities
from models.incidents.incident import incidents
from models.incidents.subscription import subscriptions
from models.notifications.delivery import deliveries
from tests.builders import a_trigger
from tests.builders import an_action as built_action
from tests.handlers.acme import Acme
from tests.handlers.conftest import Harness
from tests.handlers.rule_orders import (
    MISSING,
    a_finding,
    a_rule,
    activities,
    an_action,
    announced,
    change,
    creation,
    deletion,
    follow_ups,
    row,
    telling,
)
from tests.rule_bodies import CRITICAL, WARNING

# --- changing ----------------------------------------------------------------------------------------------------


def test_a_change_keeps_the_id_and_begins_a_generation(house: Harness, acme: Acme) -> None:
    rule = a_rule(house, acme, name="Before")

    status, shown = house.execute(change(rule, name="After", timeWindow=30), **acme.by("ana"))

    now = row(house, rule)
    assert (status, shown["id"], shown["name"], shown["timeWindow"]) == (200, str(rule), "After", 30.0)
    assert (shown["version"], now.version, now.generation) == (2, 2, 2)
    assert shown["createdBy"] is None
    assert shown["dateModified"] > shown["dateCreated"]
    assert activities(house, rule) == [(3, 12)]
    [(type_, sequence, data)] = announced(house, rule)
    assert (type_, sequence, data["alertRule"]["version"]) == ("alert_rule.updated", 1, 2)


def test_what_a_rule_said_before_is_kept(house: Harness, acme: Acme) -> None:
    rule = a_rule(house, acme, name="First")

    for name in ("Second", "Third"):
        house.accept(change(rule, name=name), **acme.by("mem"))
    house.apply()

    with house.engine.connect() as connection:
        rows = connection.execute(select(alert_rule_generations).order_by("generation")).all()
    assert [(each.rule_id, each.generation, each.definition["name"]) for each in rows] == [
        (rule, 1, "First"),
        (rule, 2, "Second"),
    ]
    assert row(house, rule).generation == 3


def test_what_is_left_out_of_a_change_stays(house: Harness, acme: Acme) -> None:
    full = {
        "environment": "production", "owner": "team:21", "description": "Look at the pool.", "resolveThreshold": 20,
        "thresholdPeriod": 3, "comparisonDelta": 60, "excludedProjects": ["p2"], "includeAllProjects": True,
        "dataset": "transactions", "activationCondition": 1, "monitorType": 1,
    }  # fmt: skip
    _, made = house.execute(creation(**full), **acme.by("mem"))

    status, shown = house.execute(change(int(made["id"]), triggers=[CRITICAL]), **acme.by("mem"))

    moving = {"dateModified", "triggers", "version"}
    assert status == 200
    assert {name: shown[name] for name in shown if name not in moving} == {
        name: made[name] for name in made if name not in moving
    }
    said = row(house, int(made["id"])).definition
    assert (said["excluded_projects"], said["resolve_threshold"]) == (["p2"], 120.0)


def test_null_takes_away_what_may_be_missing(house: Harness, acme: Acme) -> None:
    full = {
        "environment": "production", "owner": "user:12", "description": "Look.", "resolveThreshold": 20,
        "comparisonDelta": 60, "activationCondition": 0,
    }  # fmt: skip
    _, made = house.execute(creation(**full), **acme.by("mem"))

    _, shown = house.execute(change(int(made["id"]), **dict.fromkeys(full)), **acme.by("mem"))

    assert {name: shown[name] for name in full} == dict.fromkeys(full) | {"description": ""}


def test_a_blank_description_leaves_the_one_there_is(house: Harness, acme: Acme) -> None:
    _, made = house.execute(creation(description="Look."), **acme.by("mem"))

    _, shown = house.execute(change(int(made["id"]), description=""), **acme.by("mem"))

    assert shown["description"] == "Look."


def test_a_rule_stays_of_the_kind_that_it_was_made(house: Harness, acme: Acme) -> None:
    _, made = house.execute(creation(monitorType=1), **acme.by("mem"))

    _, shown = house.execute(change(int(made["id"]), monitorType=0), **acme.by("mem"))

    assert shown["monitorType"] == 1


def test_a_change_names_another_project_or_keeps_the_one_there_is(house: Harness, acme: Acme) -> None:
    rule = a_rule(house, acme)

    _, kept = house.execute(change(rule), **acme.by("mem"))
    _, moved = house.execute(change(rule, projects=["p2"]), **acme.by("mem"))
    _, empty = house.execute(change(rule, projects=[]), **acme.by("mem"))

    assert [shown["projects"] for shown in (kept, moved, empty)] == [["p1"], ["p2"], ["p2"]]
    with house.engine.connect() as connection:
        rows = connection.execute(select(alert_rule_projects)).all()
    assert rows == [(rule, acme.projects["acme", "p2"])]


def test_triggers_and_actions_with_an_id_stay_and_the_others_come_and_go(house: Harness, acme: Acme) -> None:
    _, made = house.execute(
        creation(triggers=[CRITICAL | {"actions": [an_action(), an_action(targetIdentifier=22)]}, WARNING]),
        **acme.by("mem"),
    )
    [critical, _] = made["triggers"]
    kept = critical["actions"][1]
    again = CRITICAL | {
        "id": critical["id"],
        "alertThreshold": 90,
        "actions": [
            an_action(id=kept["id"], targetType="user", targetIdentifier="12"),
            an_action(type="chat", targetType="specific", targetIdentifier="#ops"),
        ],
    }

    status, shown = house.execute(change(int(made["id"]), triggers=[again]), **acme.by("mem"))

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


def test_a_trigger_without_actions_in_a_change_keeps_those_it_has(house: Harness, acme: Acme) -> None:
    _, made = house.execute(creation(triggers=telling()), **acme.by("mem"))
    [trigger] = made["triggers"]

    _, kept = house.execute(change(int(made["id"]), triggers=[CRITICAL | {"id": trigger["id"]}]), **acme.by("mem"))
    none = CRITICAL | {"id": trigger["id"], "actions": []}
    _, emptied = house.execute(change(int(made["id"]), triggers=[none]), **acme.by("mem"))

    assert [each["triggers"][0]["actions"] for each in (kept, emptied)] == [trigger["actions"], []]


@pytest.mark.parametrize(
    ("fields", "wrong"),
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
def test_a_change_must_fit_what_stays(house: Harness, acme: Acme, fields: dict[str, JSON], wrong: JSON) -> None:
    rule = a_rule(house, acme, resolve_threshold=20.0)

    answered = house.execute(change(rule, **fields), **acme.by("mem"))

    assert answered == (400, wrong)
    assert (row(house, rule).version, follow_ups(house), announced(house, rule)) == (1, [], [])


def test_a_change_honours_the_version_that_its_caller_has_read(house: Harness, acme: Acme) -> None:
    rule = a_rule(house, acme)

    first = house.execute(change(rule, name="One"), expected_version=1, **acme.by("mem"))
    second = house.execute(change(rule, name="Two"), expected_version=1, **acme.by("ana"))
    deleted = house.execute(deletion(rule), expected_version=1, **acme.by("ana"))

    stale = (412, {"detail": "The resource has changed since you read it."})
    assert (first[0], second, deleted) == (200, stale, stale)
    assert row(house, rule).definition["name"] == "One"


# --- what a change ends ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [change, deletion])
def test_what_a_rule_holds_open_is_closed_by_tocsin_itself(house: Harness, acme: Acme, order: Any) -> None:
    rule, other = a_rule(house, acme), a_rule(house, acme)
    open_ = [a_finding(house, acme, rule, status=status) for status in (1, 10, 20)]
    a_finding(house, acme, rule, status=IncidentStatus.CLOSED)
    a_finding(house, acme, other)

    house.execute(order(rule), **acme.by("mem"))

    asked = follow_ups(house)
    organization = acme.organizations["acme"]
    assert [each.subject for each in asked] == [f"incident:{organization}:{number}" for number in open_]
    assert {each.type for each in asked} == {"incident.set_status"}
    assert [each.payload for each in asked] == [
        {"incident": str(number), "status": 2, "comment": AUTO_RESOLVED} for number in open_
    ]
    assert {(each.token_id, each.user_id) for each in asked} == {(None, None)}


@pytest.mark.parametrize("order", [change, deletion])
def test_what_is_closed_by_a_change_of_its_rule_says_so_and_names_nobody(
    house: Harness, acme: Acme, order: Any
) -> None:
    rule = a_rule(house, acme, triggers=[a_trigger("critical", 100.0, built_action(12))])
    number = a_finding(house, acme, rule, status=IncidentStatus.CRITICAL)

    house.execute(order(rule), **acme.by("mem"))
    house.apply()

    with house.engine.connect() as connection:
        incident = connection.execute(
            select(incidents).where(
                incidents.c.organization_id == acme.organizations["acme"], incidents.c.identifier == number
            )
        ).one()
        happened = connection.execute(
            select(incident_activities).where(incident_activities.c.incident_id == incident.id)
        ).one()
        told = connection.execute(select(deliveries)).one()
        subscribed = connection.execute(select(subscriptions)).all()
    assert (incident.status, incident.status_method) == (IncidentStatus.CLOSED, StatusMethod.RULE_UPDATED)
    assert (happened.user_id, happened.previous_value, happened.value) == (None, "20", "2")
    assert happened.comment == AUTO_RESOLVED
    assert (told.user_id, told.method, told.status, told.activity_id) == (12, "resolve", 2, happened.id)
    assert subscribed == []


def test_a_second_change_in_the_same_batch_does_not_close_again_what_the_first_one_has_closed(
    house: Harness, acme: Acme
) -> None:
    rule = a_rule(house, acme)
    number = a_finding(house, acme, rule)

    ids = [house.accept(change(rule, name=name), **acme.by("mem")) for name in ("One", "Two")]
    house.apply()

    assert [house.ledger_row(id_)["outcome_status"] for id_ in ids] == [200, 200]
    assert [each.payload["incident"] for each in follow_ups(house)] == [str(number)]


def test_a_change_of_a_rule_that_found_something_is_on_record_as_a_snapshot(house: Harness, acme: Acme) -> None:
    rule = a_rule(house, acme)
    a_finding(house, acme, rule, status=IncidentStatus.CLOSED)

    for _ in range(2):
        house.execute(change(rule), **acme.by("mem"))

    assert activities(house, rule) == [(6, 11), (3, 11), (3, 11)]


# --- deleting ----------------------------------------------------------------------------------------------------


def test_a_rule_that_found_nothing_leaves_nothing_behind(house: Harness, acme: Acme) -> None:
    rule = a_rule(house, acme)

    answered = house.execute(deletion(rule), **acme.by("mem"))

    assert answered == (204, None)
    assert (row(house, rule), activities(house, rule)) == (None, [])
    [(type_, sequence, data)] = announced(house, rule)
    assert (type_, sequence, data["alertRule"]["version"], data["projects"]) == ("alert_rule.deleted", 1, 2, ["p1"])


def test_a_rule_that_found_something_is_hidden_and_kept_for_its_incidents(house: Harness, acme: Acme) -> None:
    rule = a_rule(house, acme)
    a_finding(house, acme, rule, status=IncidentStatus.CLOSED)

    answered = house.execute(deletion(rule), **acme.by("mem"))

    assert answered == (204, None)
    assert (row(house, rule).status, row(house, rule).version) == (4, 2)
    assert activities(house, rule) == [(2, 11)]


@pytest.mark.parametrize("order", [change, deletion])
def test_what_is_deleted_cannot_be_found_again(house: Harness, acme: Acme, order: Any) -> None:
    rule = a_rule(house, acme)
    a_finding(house, acme, rule, status=IncidentStatus.CLOSED)
    ids = [house.accept(each, **acme.by("mem")) for each in (deletion(rule), order(rule))]

    house.apply()

    assert [house.ledger_row(id_)["outcome_status"] for id_ in ids] == [204, 404]
    assert house.execute(order(rule), **acme.by("mem")) == (404, MISSING)


def test_an_organization_whose_plan_lost_the_feature_deletes_and_does_nothing_else(house: Harness, acme: Acme) -> None:
    rule = a_rule(house, acme, organization="plain", project="n1")
    mem = acme.by("mem", organization="plain")

    changed = house.execute(change(rule), **mem)
    made = house.execute(creation(projects=["n1"]), **mem)
    deleted = house.execute(deletion(rule), **mem)

    assert (changed, made, deleted) == ((404, MISSING), (404, MISSING), (204, None))
