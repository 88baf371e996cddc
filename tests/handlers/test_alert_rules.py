"""The handler that creates alert rules."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select, update

from models.alert_rules.alert_rule import alert_rules, environments
from models.directory.tables import organizations
from models.types import JSON
from tests.handlers.acme import Acme
from tests.handlers.rule_commands import (
    a_rule,
    action_body,
    create_rule,
    delete_rule,
    published_events,
    rule_activities,
    rule_row,
    triggers_with_action,
)
from tests.harness import Harness
from tests.rule_bodies import CRITICAL, WARNING


def test_creating_a_rule_returns_it(harness: Harness, acme: Acme) -> None:
    status, shown = harness.execute(
        create_rule(triggers=[CRITICAL | {"actions": [action_body()]}, WARNING]), **acme.by("mem")
    )

    assert status == 201
    made = rule_row(harness, int(shown["id"]))
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


def test_creating_a_rule_records_one_activity_and_publishes_one_event(harness: Harness, acme: Acme) -> None:
    _, shown = harness.execute(create_rule(), **acme.by("mem"))

    rule = int(shown["id"])
    [(type_, sequence, data)] = published_events(harness, rule)
    assert rule_activities(harness, rule) == [(1, 11)]
    assert (type_, sequence) == ("alert_rule.created", 1)
    assert data["alertRule"] == {"id": shown["id"], "name": "Errors on checkout", "version": 1}
    assert (data["incident"], data["projects"]) == (None, ["p1"])
    assert data["actor"] == {"type": "user", "id": "11", "name": "Mem"}


def test_two_rules_may_have_the_same_name(harness: Harness, acme: Acme) -> None:
    first, second = (harness.execute(create_rule(), **acme.by("mem"))[1] for _ in range(2))

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
def test_query_type_and_event_types_default_to_those_of_the_dataset(
    harness: Harness, acme: Acme, fields: dict[str, JSON], kept: tuple[str, int, list[str]]
) -> None:
    _, shown = harness.execute(create_rule(**fields), **acme.by("mem"))

    definition = rule_row(harness, int(shown["id"])).definition
    assert (shown["dataset"], shown["queryType"], definition["event_types"]) == kept


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
def test_a_rule_is_owned_by_a_person_or_a_team(harness: Harness, acme: Acme, named: JSON, shown_as: str | None) -> None:
    status, shown = harness.execute(create_rule(owner=named), **acme.by("mem"))

    assert (status, shown["owner"]) == (201, shown_as)


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        ("user:999", "User does not exist"),
        ("team:999", "Team does not exist"),
        ("user:14", "User does not exist"),
        ("team:23", "Team does not exist"),
        ("nobody", "Could not parse actor. Format should be `type:id` where type is `team` or `user`."),
        ("meow:1", "Could not parse actor. Format should be `type:id` where type is `team` or `user`."),
    ],
)
def test_an_invalid_owner_is_refused_with_the_reason(harness: Harness, acme: Acme, named: str, sentence: str) -> None:
    outcome = harness.execute(create_rule(owner=named), **acme.by("mem"))

    assert outcome == (400, {"owner": [sentence]})
    assert harness.row_counts()["events"] == 0


def test_an_environment_is_created_by_the_first_rule_that_names_it(harness: Harness, acme: Acme) -> None:
    for name in ("production", "production", None):
        harness.execute(create_rule(environment=name), **acme.by("mem"))

    with harness.engine.connect() as connection:
        rows = connection.execute(select(environments.c.organization_id, environments.c.name)).all()
    assert rows == [(acme.organizations["acme"], "production")]


def test_comparison_thresholds_are_stored_as_percentages_and_shown_as_differences(harness: Harness, acme: Acme) -> None:
    above = {"comparisonDelta": 60, "resolveThreshold": 10.5, "triggers": [CRITICAL | {"alertThreshold": 50}]}
    _, over = harness.execute(create_rule(**above), **acme.by("mem"))
    _, under = harness.execute(create_rule(**above, thresholdType=1), **acme.by("mem"))

    stored = [rule_row(harness, int(shown["id"])).definition for shown in (over, under)]
    assert [(each["resolve_threshold"], each["triggers"][0]["threshold"]) for each in stored] == [
        (110.5, 150.0),
        (89.5, 50.0),
    ]
    for shown in (over, under):
        assert (shown["comparisonDelta"], shown["resolveThreshold"]) == (60.0, 10.5)
        assert shown["triggers"][0]["alertThreshold"] == 50.0
        assert shown["triggers"][0]["resolveThreshold"] == 10.5


@pytest.mark.parametrize(
    ("fields", "errors"),
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
        ({"triggers": triggers_with_action(targetIdentifier=999)}, {"nonFieldErrors": ["Team does not exist"]}),
        ({"triggers": triggers_with_action(targetIdentifier=23)}, {"nonFieldErrors": ["Team does not exist"]}),
        ({"triggers": triggers_with_action(targetIdentifier="t1")}, {"nonFieldErrors": ["Team does not exist"]}),
        (
            {"triggers": triggers_with_action(targetType="user", targetIdentifier=14)},
            ["User does not belong to this organization"],
        ),
        (
            {"triggers": triggers_with_action(targetType="user", targetIdentifier="999999999999999999999")},
            ["User does not belong to this organization"],
        ),
        ({"triggers": [CRITICAL | {"id": 7}]}, {"nonFieldErrors": ["Trigger does not exist"]}),
        ({"triggers": triggers_with_action(id=7)}, {"nonFieldErrors": ["Action does not exist"]}),
    ],
)
def test_a_rule_that_refers_to_something_missing_is_not_created(
    harness: Harness, acme: Acme, fields: dict[str, JSON], errors: JSON
) -> None:
    outcome = harness.execute(create_rule(**fields), **acme.by("mem"))

    assert outcome == (400, errors)
    with harness.engine.connect() as connection:
        assert connection.execute(select(func.count()).select_from(alert_rules)).scalar_one() == 0


def test_a_rule_cannot_refer_to_an_inaccessible_project_or_team(harness: Harness, acme: Acme) -> None:
    mem = acme.by("mem", organization="closed")

    project = harness.execute(create_rule(projects=["c1"]), **mem)
    with harness.engine.begin() as connection:
        connection.execute(update(organizations).values(open_membership=True))
        connection.exec_driver_sql("UPDATE teams SET status = 'inactive' WHERE id = 23")
    team = harness.execute(create_rule(projects=["c1"], triggers=triggers_with_action(targetIdentifier=23)), **mem)

    assert project == (400, {"projects": ["Insufficient access to project"]})
    assert team == (400, {"nonFieldErrors": ["Team does not exist"]})


def test_generic_metrics_require_their_feature(harness: Harness, acme: Acme) -> None:
    with harness.engine.begin() as connection:
        features = ["organizations:incidents", "organizations:mep-rollout-flag"]
        connection.execute(update(organizations).values(features=features))

    status, shown = harness.execute(create_rule(dataset="generic_metrics"), **acme.by("mem"))

    assert (status, shown["dataset"], shown["queryType"]) == (201, "generic_metrics", 1)


def test_an_organization_has_at_most_a_thousand_rules_not_counting_deleted_ones(harness: Harness, acme: Acme) -> None:
    gone = a_rule(harness, acme)
    with harness.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO alert_rules (organization_id, status, definition, date_added, date_modified)"
            " SELECT organization_id, CASE WHEN n = 1 THEN 4 ELSE 0 END, definition, date_added, date_modified"
            " FROM alert_rules, generate_series(1, 999) AS n"
        )
    full, over = (harness.execute(create_rule(), **acme.by("mem")) for _ in range(2))

    harness.execute(delete_rule(gone), **acme.by("mem"))
    again = harness.execute(create_rule(), **acme.by("mem"))

    assert (full[0], again[0]) == (201, 201)
    assert over == (400, ["You may not exceed 1000 metric alerts per organization"])


def test_the_limit_on_rules_also_applies_within_a_batch(harness: Harness, acme: Acme) -> None:
    a_rule(harness, acme)
    with harness.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO alert_rules (organization_id, definition, date_added, date_modified)"
            " SELECT organization_id, definition, date_added, date_modified FROM alert_rules, generate_series(1, 998)"
        )
    ids = [harness.accept(create_rule(), **acme.by("mem")) for _ in range(3)]

    harness.apply()

    assert [harness.ledger_row(id_)["outcome_status"] for id_ in ids] == [201, 400, 400]
