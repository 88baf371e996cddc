"""Alert rules as a worker makes, changes and ends them, on a real database."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import func, insert, select, update

from models.activity import activities as incident_activities
from models.alert_rule import (
    AUTO_RESOLVED,
    Action,
    Trigger,
    alert_rule_activities,
    alert_rule_generations,
    alert_rule_projects,
    alert_rule_snoozes,
    alert_rules,
    environments,
)
from models.command import commands
from models.delivery import deliveries
from models.directory import organizations
from models.event import events
from models.incident import incidents
from models.rule_words import ActionType, TargetType
from models.subscription import subscriptions
from models.vocabulary import JSON, IncidentStatus, StatusMethod
from tasks.rule_commands import CreateRule, DeleteRule, UpdateRule
from tests.builders import NOW, a_trigger, an_alert_rule, an_incident
from tests.builders import an_action as built_action
from tests.handling.acme import Acme
from tests.handling.conftest import House

MISSING = {"detail": "The requested resource does not exist"}
FORBIDDEN = {"detail": "You do not have permission to perform this action."}
CRITICAL = {"label": "critical", "alertThreshold": 100}
WARNING = {"label": "warning", "alertThreshold": 50}
RULE: dict[str, Any] = {
    "name": "Errors on checkout",
    "aggregate": "count()",
    "query": "level:error",
    "timeWindow": 10,
    "thresholdType": 0,
    "triggers": [CRITICAL],
}


@pytest.fixture
def acme(house: House) -> Acme:
    return Acme(house.engine)


def creation(**fields: JSON) -> CreateRule:
    return CreateRule.model_validate(RULE | {"projects": ["p1"]} | fields)


def change(rule: int, **fields: JSON) -> UpdateRule:
    return UpdateRule.model_validate(RULE | {"alertRule": rule} | fields)


def deletion(rule: int, **fields: JSON) -> DeleteRule:
    return DeleteRule.model_validate({"alertRule": rule} | fields)


def an_action(**fields: JSON) -> dict[str, JSON]:
    return {"type": "email", "targetType": "team", "targetIdentifier": 21} | fields


def telling(**fields: JSON) -> list[dict[str, JSON]]:
    """One trigger that tells somebody."""
    return [CRITICAL | {"actions": [an_action(**fields)]}]


def a_rule(house: House, acme: Acme, *, organization: str = "acme", project: str = "p1", **facts: Any) -> int:
    with house.engine.begin() as connection:
        projects = [acme.projects[organization, project]]
        return an_alert_rule(connection, acme.organizations[organization], projects=projects, **facts)


def a_finding(house: House, acme: Acme, rule: int, **facts: Any) -> int:
    """An incident that the rule found; its number."""
    with house.engine.begin() as connection:
        projects = [acme.projects["acme", "p1"]]
        found = {"alert_rule_id": rule, "alert_rule_generation": 1, "projects": projects} | facts
        id_ = an_incident(connection, acme.organizations["acme"], **found)
        return int(connection.execute(select(incidents.c.identifier).where(incidents.c.id == id_)).scalar_one())


def row(house: House, rule: int) -> Any:
    with house.engine.connect() as connection:
        return connection.execute(select(alert_rules).where(alert_rules.c.id == rule)).one_or_none()


def activities(house: House, rule: int) -> list[tuple[int, int | None]]:
    table = alert_rule_activities
    with house.engine.connect() as connection:
        rows = connection.execute(select(table.c.type, table.c.user_id).where(table.c.rule_id == rule).order_by("id"))
        return [tuple(each) for each in rows]


def announced(house: House, rule: int) -> list[tuple[str, int, Any]]:
    """What was announced of the rule: type, sequence, data."""
    with house.engine.connect() as connection:
        rows = connection.execute(
            select(events.c.type, events.c.sequence, events.c.body)
            .where(events.c.subject == f"alert-rules/{rule}")
            .order_by(events.c.sequence)
        )
        return [(each.type, each.sequence, each.body["data"]) for each in rows]


def follow_ups(house: House) -> list[Any]:
    """What tocsin itself has asked for, in order."""
    with house.engine.connect() as connection:
        return list(connection.execute(select(commands).where(commands.c.caller == "system").order_by(commands.c.seq)))


# --- creating ---------------------------------------------------------------------------------------------------


def test_a_rule_is_answered_as_it_was_asked_for(house: House, acme: Acme) -> None:
    status, shown = house.answer(creation(triggers=[CRITICAL | {"actions": [an_action()]}, WARNING]), **acme.by("mem"))

    assert status == 201
    made = row(house, int(shown["id"]))
    [critical, warning] = shown["triggers"]
    [action] = critical["actions"]
    assert shown == {
        "id": str(made.id),
        "name": "Errors on checkout",
        "organizationId": str(acme.organizations["acme"]),
        "status": 0,
        "queryType": 0,
        "dataset": "events",
        "query": "level:error",
        "aggregate": "count()",
        "thresholdType": 0,
        "resolveThreshold": None,
        "timeWindow": 10.0,
        "environment": None,
        "resolution": 1.0,
        "thresholdPeriod": 1,
        "triggers": [critical, warning],
        "projects": ["p1"],
        "includeAllProjects": False,
        "owner": None,
        "originalAlertRuleId": None,
        "comparisonDelta": None,
        "dateModified": shown["dateCreated"],
        "dateCreated": shown["dateCreated"],
        "createdBy": {"id": 11, "name": "Mem", "email": "mem@x.test"},
        "monitorType": 0,
        "activationCondition": None,
        "activations": [],
        "description": "",
        "version": 1,
    }
    assert critical == {
        "id": critical["id"],
        "alertRuleId": shown["id"],
        "label": "critical",
        "thresholdType": 0,
        "alertThreshold": 100.0,
        "resolveThreshold": None,
        "dateCreated": shown["dateCreated"],
        "actions": [action],
    }
    assert (warning["label"], warning["alertThreshold"], warning["actions"]) == ("warning", 50.0, [])
    assert action == {
        "id": action["id"],
        "alertRuleTriggerId": critical["id"],
        "type": "email",
        "targetType": "team",
        "targetIdentifier": "21",
        "inputChannelId": None,
        "integrationId": None,
        "sentryAppId": None,
        "dateCreated": shown["dateCreated"],
        "desc": "Send an email to members of #t1",
        "priority": None,
    }
    assert len({shown["id"], critical["id"], warning["id"], action["id"]}) == 4


def test_a_creation_is_recorded_and_announced_once(house: House, acme: Acme) -> None:
    _, shown = house.answer(creation(), **acme.by("mem"))

    rule = int(shown["id"])
    [(type_, sequence, data)] = announced(house, rule)
    assert activities(house, rule) == [(1, 11)]
    assert (type_, sequence) == ("alert_rule.created", 1)
    assert data["alertRule"] == {"id": shown["id"], "name": "Errors on checkout", "version": 1}
    assert (data["incident"], data["projects"]) == (None, ["p1"])
    assert data["actor"] == {"type": "user", "id": "11", "name": "Mem"}


def test_names_may_repeat(house: House, acme: Acme) -> None:
    first, second = (house.answer(creation(), **acme.by("mem"))[1] for _ in range(2))

    assert (first["name"], first["id"]) == (second["name"], str(int(second["id"]) - 2))


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({}, ("events", 0, ["error"])),
        ({"dataset": "events", "eventTypes": ["default", "ERROR", "error"]}, ("events", 0, ["default", "error"])),
        ({"eventTypes": []}, ("events", 0, ["error"])),
        ({"dataset": "transactions"}, ("transactions", 1, ["transaction"])),
        ({"dataset": "transactions", "queryType": 1}, ("transactions", 1, ["transaction"])),
        ({"dataset": "metrics", "timeWindow": 60, "eventTypes": ["error"]}, ("metrics", 2, [])),
    ],
)
def test_a_rule_counts_what_its_dataset_has_unless_told_otherwise(
    house: House, acme: Acme, fields: dict[str, JSON], kept: tuple[str, int, list[str]]
) -> None:
    _, shown = house.answer(creation(**fields), **acme.by("mem"))

    said = row(house, int(shown["id"])).definition
    assert (shown["dataset"], shown["queryType"], said["event_types"]) == kept


@pytest.mark.parametrize(
    ("named", "shown_as"),
    [
        ("user:12", "user:12"),
        ("ana", "user:12"),
        ("Ana@x.test", "user:12"),
        (12, "user:12"),
        ("team:21", "team:21"),
        (None, None),
    ],
)
def test_a_rule_belongs_to_a_person_or_a_team(house: House, acme: Acme, named: JSON, shown_as: str | None) -> None:
    status, shown = house.answer(creation(owner=named), **acme.by("mem"))

    assert (status, shown["owner"]) == (201, shown_as)


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        ("user:999", "User does not exist"),
        ("team:999", "Team does not exist"),
        ("user:14", "User is not a member of this organization"),
        ("team:23", "Team is not a member of this organization"),
        ("nobody", "Could not parse actor. Format should be `type:id` where type is `team` or `user`."),
        ("meow:1", "Could not parse actor. Format should be `type:id` where type is `team` or `user`."),
    ],
)
def test_who_cannot_own_a_rule_is_told_why(house: House, acme: Acme, named: str, sentence: str) -> None:
    answered = house.answer(creation(owner=named), **acme.by("mem"))

    assert answered == (400, {"owner": [sentence]})
    assert house.counts()["events"] == 0


def test_an_environment_exists_once_a_rule_names_it(house: House, acme: Acme) -> None:
    for name in ("production", "production", None):
        house.answer(creation(environment=name), **acme.by("mem"))

    with house.engine.connect() as connection:
        rows = connection.execute(select(environments.c.organization_id, environments.c.name)).all()
    assert rows == [(acme.organizations["acme"], "production")]


def test_a_comparison_keeps_per_cents_and_shows_differences(house: House, acme: Acme) -> None:
    above = {"comparisonDelta": 60, "resolveThreshold": 10.5, "triggers": [CRITICAL | {"alertThreshold": 50}]}
    _, over = house.answer(creation(**above), **acme.by("mem"))
    _, under = house.answer(creation(**above, thresholdType=1), **acme.by("mem"))

    stored = [row(house, int(shown["id"])).definition for shown in (over, under)]
    assert [(each["resolve_threshold"], each["triggers"][0]["threshold"]) for each in stored] == [
        (110.5, 150.0),
        (89.5, 50.0),
    ]
    for shown in (over, under):
        assert (shown["comparisonDelta"], shown["resolveThreshold"]) == (60.0, 10.5)
        assert shown["triggers"][0]["alertThreshold"] == 50.0
        assert shown["triggers"][0]["resolveThreshold"] == 10.5


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"projects": ["nowhere"]}, {"projects": ["Invalid project"]}),
        ({"projects": ["old"]}, {"projects": ["Invalid project"]}),
        ({"projects": ["c1"]}, {"projects": ["Invalid project"]}),
        ({"excludedProjects": ["nowhere"]}, {"excludedProjects": ["Invalid project"]}),
        (
            {"projects": ["nowhere"], "owner": "user:999"},
            {"projects": ["Invalid project"], "owner": ["User does not exist"]},
        ),
        (
            {"dataset": "generic_metrics"},
            {"nonFieldErrors": ["This project does not have access to the `generic_metrics` dataset"]},
        ),
        ({"triggers": telling(targetIdentifier=999)}, {"nonFieldErrors": ["Team does not exist"]}),
        ({"triggers": telling(targetIdentifier=23)}, {"nonFieldErrors": ["Team does not exist"]}),
        ({"triggers": telling(targetIdentifier="t1")}, {"nonFieldErrors": ["Team does not exist"]}),
        (
            {"triggers": telling(targetType="user", targetIdentifier=14)},
            ["User does not belong to this organization"],
        ),
        (
            {"triggers": telling(targetType="user", targetIdentifier="999999999999999999999")},
            ["User does not belong to this organization"],
        ),
        ({"triggers": [CRITICAL | {"id": 7}]}, {"nonFieldErrors": ["Trigger does not exist"]}),
        ({"triggers": telling(id=7)}, {"nonFieldErrors": ["Action does not exist"]}),
    ],
)
def test_what_a_rule_names_must_exist_or_nothing_is_made(
    house: House, acme: Acme, fields: dict[str, JSON], wrong: JSON
) -> None:
    answered = house.answer(creation(**fields), **acme.by("mem"))

    assert answered == (400, wrong)
    with house.engine.connect() as connection:
        assert connection.execute(select(func.count()).select_from(alert_rules)).scalar_one() == 0


def test_a_project_or_a_team_out_of_reach_cannot_be_named(house: House, acme: Acme) -> None:
    mem = acme.by("mem", organization="closed")

    project = house.answer(creation(projects=["c1"]), **mem)
    with house.engine.begin() as connection:
        connection.execute(update(organizations).values(open_membership=True))
        connection.exec_driver_sql("UPDATE teams SET status = 'inactive' WHERE id = 23")
    team = house.answer(creation(projects=["c1"], triggers=telling(targetIdentifier=23)), **mem)

    assert project == (400, {"projects": ["Insufficient access to project"]})
    assert team == (400, {"nonFieldErrors": ["Team does not exist"]})


def test_generic_metrics_are_for_plans_that_have_them(house: House, acme: Acme) -> None:
    with house.engine.begin() as connection:
        features = ["organizations:incidents", "organizations:mep-rollout-flag"]
        connection.execute(update(organizations).values(features=features))

    status, shown = house.answer(creation(dataset="generic_metrics"), **acme.by("mem"))

    assert (status, shown["dataset"], shown["queryType"]) == (201, "generic_metrics", 1)


def test_an_organization_has_a_thousand_rules_at_most_and_deleted_ones_do_not_count(house: House, acme: Acme) -> None:
    gone = a_rule(house, acme)
    with house.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO alert_rules (organization_id, status, definition, date_added, date_modified)"
            " SELECT organization_id, CASE WHEN n = 1 THEN 4 ELSE 0 END, definition, date_added, date_modified"
            " FROM alert_rules, generate_series(1, 999) AS n"
        )
    full, over = (house.answer(creation(), **acme.by("mem")) for _ in range(2))

    house.answer(deletion(gone), **acme.by("mem"))
    again = house.answer(creation(), **acme.by("mem"))

    assert (full[0], again[0]) == (201, 201)
    assert over == (400, ["You may not exceed 1000 metric alerts per organization"])


def test_the_cap_holds_within_a_batch(house: House, acme: Acme) -> None:
    a_rule(house, acme)
    with house.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO alert_rules (organization_id, definition, date_added, date_modified)"
            " SELECT organization_id, definition, date_added, date_modified FROM alert_rules, generate_series(1, 998)"
        )
    ids = [house.accept(creation(), **acme.by("mem")) for _ in range(3)]

    house.apply()

    assert [house.resource(id_)["outcome_status"] for id_ in ids] == [201, 400, 400]


# --- changing ---------------------------------------------------------------------------------------------------


def test_a_change_keeps_the_id_and_begins_a_generation(house: House, acme: Acme) -> None:
    rule = a_rule(house, acme, name="Before")

    status, shown = house.answer(change(rule, name="After", timeWindow=30), **acme.by("ana"))

    now = row(house, rule)
    assert (status, shown["id"], shown["name"], shown["timeWindow"]) == (200, str(rule), "After", 30.0)
    assert (shown["version"], now.version, now.generation) == (2, 2, 2)
    assert shown["createdBy"] is None
    assert shown["dateModified"] > shown["dateCreated"]
    assert activities(house, rule) == [(3, 12)]
    [(type_, sequence, data)] = announced(house, rule)
    assert (type_, sequence, data["alertRule"]["version"]) == ("alert_rule.updated", 1, 2)


def test_what_a_rule_said_before_is_kept(house: House, acme: Acme) -> None:
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


def test_what_is_left_out_of_a_change_stays(house: House, acme: Acme) -> None:
    full = {
        "environment": "production", "owner": "team:21", "description": "Look at the pool.", "resolveThreshold": 20,
        "thresholdPeriod": 3, "comparisonDelta": 60, "excludedProjects": ["p2"], "includeAllProjects": True,
        "dataset": "transactions", "activationCondition": 1, "monitorType": 1,
    }  # fmt: skip
    _, made = house.answer(creation(**full), **acme.by("mem"))

    status, shown = house.answer(change(int(made["id"]), triggers=[CRITICAL]), **acme.by("mem"))

    moving = {"dateModified", "triggers", "version"}
    assert status == 200
    assert {name: shown[name] for name in shown if name not in moving} == {
        name: made[name] for name in made if name not in moving
    }
    said = row(house, int(made["id"])).definition
    assert (said["excluded_projects"], said["resolve_threshold"]) == (["p2"], 120.0)


def test_null_takes_away_what_may_be_missing(house: House, acme: Acme) -> None:
    full = {
        "environment": "production", "owner": "user:12", "description": "Look.", "resolveThreshold": 20,
        "comparisonDelta": 60, "activationCondition": 0,
    }  # fmt: skip
    _, made = house.answer(creation(**full), **acme.by("mem"))

    _, shown = house.answer(change(int(made["id"]), **dict.fromkeys(full)), **acme.by("mem"))

    assert {name: shown[name] for name in full} == dict.fromkeys(full) | {"description": ""}


def test_a_blank_description_leaves_the_one_there_is(house: House, acme: Acme) -> None:
    _, made = house.answer(creation(description="Look."), **acme.by("mem"))

    _, shown = house.answer(change(int(made["id"]), description=""), **acme.by("mem"))

    assert shown["description"] == "Look."


def test_a_rule_stays_of_the_kind_that_it_was_made(house: House, acme: Acme) -> None:
    _, made = house.answer(creation(monitorType=1), **acme.by("mem"))

    _, shown = house.answer(change(int(made["id"]), monitorType=0), **acme.by("mem"))

    assert shown["monitorType"] == 1


def test_a_change_names_another_project_or_keeps_the_one_there_is(house: House, acme: Acme) -> None:
    rule = a_rule(house, acme)

    _, kept = house.answer(change(rule), **acme.by("mem"))
    _, moved = house.answer(change(rule, projects=["p2"]), **acme.by("mem"))
    _, empty = house.answer(change(rule, projects=[]), **acme.by("mem"))

    assert [shown["projects"] for shown in (kept, moved, empty)] == [["p1"], ["p2"], ["p2"]]
    with house.engine.connect() as connection:
        rows = connection.execute(select(alert_rule_projects)).all()
    assert rows == [(rule, acme.projects["acme", "p2"])]


def test_triggers_and_actions_with_an_id_stay_and_the_others_come_and_go(house: House, acme: Acme) -> None:
    _, made = house.answer(
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

    status, shown = house.answer(change(int(made["id"]), triggers=[again]), **acme.by("mem"))

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


def test_a_trigger_without_actions_in_a_change_keeps_those_it_has(house: House, acme: Acme) -> None:
    _, made = house.answer(creation(triggers=telling()), **acme.by("mem"))
    [trigger] = made["triggers"]

    _, kept = house.answer(change(int(made["id"]), triggers=[CRITICAL | {"id": trigger["id"]}]), **acme.by("mem"))
    none = CRITICAL | {"id": trigger["id"], "actions": []}
    _, emptied = house.answer(change(int(made["id"]), triggers=[none]), **acme.by("mem"))

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
def test_a_change_must_fit_what_stays(house: House, acme: Acme, fields: dict[str, JSON], wrong: JSON) -> None:
    rule = a_rule(house, acme, resolve_threshold=20.0)

    answered = house.answer(change(rule, **fields), **acme.by("mem"))

    assert answered == (400, wrong)
    assert (row(house, rule).version, follow_ups(house), announced(house, rule)) == (1, [], [])


def test_a_change_honours_the_version_that_its_caller_has_read(house: House, acme: Acme) -> None:
    rule = a_rule(house, acme)

    first = house.answer(change(rule, name="One"), expected_version=1, **acme.by("mem"))
    second = house.answer(change(rule, name="Two"), expected_version=1, **acme.by("ana"))
    deleted = house.answer(deletion(rule), expected_version=1, **acme.by("ana"))

    stale = (412, {"detail": "The resource has changed since you read it."})
    assert (first[0], second, deleted) == (200, stale, stale)
    assert row(house, rule).definition["name"] == "One"


# --- what a change ends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [change, deletion])
def test_what_a_rule_holds_open_is_closed_by_tocsin_itself(house: House, acme: Acme, order: Any) -> None:
    rule, other = a_rule(house, acme), a_rule(house, acme)
    open_ = [a_finding(house, acme, rule, status=status) for status in (1, 10, 20)]
    a_finding(house, acme, rule, status=IncidentStatus.CLOSED)
    a_finding(house, acme, other)

    house.answer(order(rule), **acme.by("mem"))

    asked = follow_ups(house)
    organization = acme.organizations["acme"]
    assert [each.subject for each in asked] == [f"incident:{organization}:{number}" for number in open_]
    assert {each.type for each in asked} == {"incident.set_status"}
    assert [each.payload for each in asked] == [
        {"incident": str(number), "status": 2, "comment": AUTO_RESOLVED} for number in open_
    ]
    assert {(each.token_id, each.user_id) for each in asked} == {(None, None)}


@pytest.mark.parametrize("order", [change, deletion])
def test_what_is_closed_by_a_change_of_its_rule_says_so_and_names_nobody(house: House, acme: Acme, order: Any) -> None:
    rule = a_rule(house, acme, triggers=[a_trigger("critical", 100.0, built_action(12))])
    number = a_finding(house, acme, rule, status=IncidentStatus.CRITICAL)

    house.answer(order(rule), **acme.by("mem"))
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
    house: House, acme: Acme
) -> None:
    rule = a_rule(house, acme)
    number = a_finding(house, acme, rule)

    ids = [house.accept(change(rule, name=name), **acme.by("mem")) for name in ("One", "Two")]
    house.apply()

    assert [house.resource(id_)["outcome_status"] for id_ in ids] == [200, 200]
    assert [each.payload["incident"] for each in follow_ups(house)] == [str(number)]


def test_a_change_of_a_rule_that_found_something_is_on_record_as_a_snapshot(house: House, acme: Acme) -> None:
    rule = a_rule(house, acme)
    a_finding(house, acme, rule, status=IncidentStatus.CLOSED)

    for _ in range(2):
        house.answer(change(rule), **acme.by("mem"))

    assert activities(house, rule) == [(6, 11), (3, 11), (3, 11)]


# --- deleting ---------------------------------------------------------------------------------------------------


def test_a_rule_that_found_nothing_leaves_nothing_behind(house: House, acme: Acme) -> None:
    rule = a_rule(house, acme)

    answered = house.answer(deletion(rule), **acme.by("mem"))

    assert answered == (204, None)
    assert (row(house, rule), activities(house, rule)) == (None, [])
    [(type_, sequence, data)] = announced(house, rule)
    assert (type_, sequence, data["alertRule"]["version"], data["projects"]) == ("alert_rule.deleted", 1, 2, ["p1"])


def test_a_rule_that_found_something_is_hidden_and_kept_for_its_incidents(house: House, acme: Acme) -> None:
    rule = a_rule(house, acme)
    a_finding(house, acme, rule, status=IncidentStatus.CLOSED)

    answered = house.answer(deletion(rule), **acme.by("mem"))

    assert answered == (204, None)
    assert (row(house, rule).status, row(house, rule).version) == (4, 2)
    assert activities(house, rule) == [(2, 11)]


@pytest.mark.parametrize("order", [change, deletion])
def test_what_is_deleted_cannot_be_found_again(house: House, acme: Acme, order: Any) -> None:
    rule = a_rule(house, acme)
    a_finding(house, acme, rule, status=IncidentStatus.CLOSED)
    ids = [house.accept(each, **acme.by("mem")) for each in (deletion(rule), order(rule))]

    house.apply()

    assert [house.resource(id_)["outcome_status"] for id_ in ids] == [204, 404]
    assert house.answer(order(rule), **acme.by("mem")) == (404, MISSING)


def test_an_organization_whose_plan_lost_the_feature_deletes_and_does_nothing_else(house: House, acme: Acme) -> None:
    rule = a_rule(house, acme, organization="plain", project="n1")
    mem = acme.by("mem", organization="plain")

    changed = house.answer(change(rule), **mem)
    made = house.answer(creation(projects=["n1"]), **mem)
    deleted = house.answer(deletion(rule), **mem)

    assert (changed, made, deleted) == ((404, MISSING), (404, MISSING), (204, None))


# --- who and where ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [change, deletion])
def test_a_rule_out_of_reach_is_forbidden_and_one_of_elsewhere_is_missing(house: House, acme: Acme, order: Any) -> None:
    rule = a_rule(house, acme, organization="closed", project="c1")

    here = house.answer(order(rule), **acme.by("mem", organization="closed"))
    there = house.answer(order(rule), **acme.by("mem"))
    nothing = house.answer(order(0), **acme.by("mem"))

    assert (here, there, nothing) == ((403, FORBIDDEN), (404, MISSING), (404, MISSING))


def test_one_project_within_reach_is_enough(house: House, acme: Acme) -> None:
    with house.engine.begin() as connection:
        projects = [acme.projects["acme", slug] for slug in ("old", "p1")]
        rule = an_alert_rule(connection, acme.organizations["acme"], projects=projects)
        lost = an_alert_rule(connection, acme.organizations["acme"], projects=projects[:1])

    assert house.answer(deletion(rule), **acme.by("mem"))[0] == 204
    assert house.answer(deletion(lost), **acme.by("own")) == (403, FORBIDDEN)


@pytest.mark.parametrize("order", [change, deletion])
def test_through_a_project_only_its_own_rules_are_found(house: House, acme: Acme, order: Any) -> None:
    rule = a_rule(house, acme)
    elsewhere = a_rule(house, acme, organization="closed", project="c1")

    answers = [
        house.answer(order(rule, inProject=project), **acme.by("mem")) for project in ("p2", "old", "nowhere", "p1")
    ]
    closed = acme.by("mem", organization="closed")
    reached = house.answer(order(elsewhere, inProject="c1"), **closed)
    absent = house.answer(order(rule, inProject="c1"), **closed)

    assert answers[:3] == [(404, MISSING)] * 3
    assert answers[3][0] in (200, 204)
    assert (reached, absent) == ((403, FORBIDDEN), (404, MISSING))


def test_through_a_project_a_rule_is_that_projects_whatever_the_body_says(house: House, acme: Acme) -> None:
    _, made = house.answer(creation(projects=["p2"], inProject="p1"), **acme.by("mem"))
    _, moved = house.answer(change(int(made["id"]), projects=["p2"], inProject="p1"), **acme.by("mem"))

    assert (made["projects"], moved["projects"]) == (["p1"], ["p1"])


@pytest.mark.parametrize(
    ("scopes", "plain", "twin"),
    [
        (["alerts:write"], 201, 201),
        (["org:write"], 201, 403),
        (["project:write"], 403, 201),
        (["alerts:read", "project:read", "org:read"], 403, 403),
    ],
)
def test_a_command_is_judged_again_by_the_scopes_of_the_address_it_came_by(
    house: House, acme: Acme, scopes: list[str], plain: int, twin: int
) -> None:
    with house.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE tokens SET scopes = %s WHERE id = %s", (scopes, acme.tokens["dev-own"]))

    statuses = [house.answer(each, **acme.by("own"))[0] for each in (creation(), creation(inProject="p1"))]

    assert statuses == [plain, twin]


def test_plain_members_write_rules_only_while_the_organization_lets_them(house: House, acme: Acme) -> None:
    rule = a_rule(house, acme)
    with house.engine.begin() as connection:
        connection.execute(update(organizations).values(alerts_member_write=False))

    orders = (creation(), change(rule), deletion(rule))
    of_a_member = [house.answer(each, **acme.by("mem"))[0] for each in orders]
    of_an_admin = [house.answer(each, **acme.by("ben"))[0] for each in orders]

    assert of_a_member == [403, 403, 403]
    assert of_an_admin == [201, 200, 204]


def test_whoever_owns_a_rule_has_no_more_right_to_it(house: House, acme: Acme) -> None:
    rule = a_rule(house, acme, owner_team=22)

    assert house.answer(change(rule), **acme.by("mem"))[0] == 200
    assert house.answer(deletion(rule), **acme.by("mem"))[0] == 204


def test_a_rule_whose_owner_and_actions_are_gone_is_still_shown(house: House, acme: Acme) -> None:
    told = [
        Action(id=1, type=ActionType.EMAIL, target_type=kind, target="999", date_added=NOW)
        for kind in (TargetType.USER, TargetType.TEAM)
    ]
    trigger = Trigger(id=2, label="critical", threshold=1.0, date_added=NOW, actions=tuple(told))
    rule = a_rule(house, acme, triggers=[trigger], owner_user=999)

    _, shown = house.answer(change(rule, triggers=[CRITICAL | {"id": 2}]), **acme.by("mem"))

    assert shown["owner"] == "user:999"
    assert [each["desc"] for each in shown["triggers"][0]["actions"]] == [
        "Send a notification to somebody who is gone",
        "Send an email to members of #a team that is gone",
    ]


def test_commands_of_one_rule_keep_their_order(house: House, acme: Acme) -> None:
    rule = a_rule(house, acme)
    ids = [house.accept(change(rule, name=str(number)), **acme.by("mem")) for number in range(5)]

    house.apply()

    versions = [house.resource(id_)["outcome_body"]["version"] for id_ in ids]
    assert versions == [2, 3, 4, 5, 6]
    assert [sequence for _, sequence, _ in announced(house, rule)] == [1, 2, 3, 4, 5]
    assert {house.resource(id_)["subject"] for id_ in ids} == {f"rule:{rule}"}


def test_a_rule_is_not_anothers_by_how_its_id_is_written(house: House, acme: Acme) -> None:
    rule = a_rule(house, acme)

    id_ = house.accept(deletion(f"00{rule}"), **acme.by("mem"))  # type: ignore[arg-type]

    assert house.resource(id_)["subject"] == f"rule:{rule}"


def test_the_ledger_keeps_what_was_left_out_apart_from_null() -> None:
    stored = json.loads(change(1, owner=None).stored())

    assert stored["owner"] is None
    assert "environment" not in stored


def test_a_snooze_in_force_shows_in_the_answer_to_whom_it_concerns(house: House, acme: Acme) -> None:
    rule = a_rule(house, acme)
    with house.engine.begin() as connection:
        connection.execute(insert(alert_rule_snoozes).values(rule_id=rule, user_id=11, date_added=NOW))

    _, mine = house.answer(change(rule), **acme.by("mem"))
    _, hers = house.answer(change(rule), **acme.by("ana"))

    assert (mine.get("snooze"), hers.get("snooze")) == (True, None)
