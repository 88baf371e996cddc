"""Handlers that create, update and delete single triggers and actions."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from models.alert_rules.alert_rule import Trigger, alert_rule_generations
from models.types import JSON
from tasks.commands.alert_rules import RuleCommand
from tasks.commands.triggers import (
    CreateAction,
    CreateTrigger,
    DeleteAction,
    DeleteTrigger,
    UpdateAction,
    UpdateTrigger,
)
from tests.builders import NOW
from tests.handlers.acme import Acme
from tests.handlers.rule_commands import (
    FORBIDDEN,
    NOT_FOUND,
    a_rule,
    action_body,
    an_incident_of_rule,
    create_rule,
    follow_ups,
    published_events,
    rule_activities,
    rule_row,
)
from tests.harness import Harness

LABEL_TAKEN = (400, ["This label is already in use for this alert rule"])


def a_rule_with_action(harness: Harness, acme: Acme, **who: Any) -> tuple[int, int, int]:
    """Create a rule with one trigger and one action; return the ids of rule, trigger and action."""
    critical = {"label": "critical", "alertThreshold": 100, "actions": [action_body(**who)]}
    _, made = harness.execute(create_rule(triggers=[critical], resolveThreshold=20), **acme.by("mem"))
    [trigger] = made["triggers"]
    return int(made["id"]), int(trigger["id"]), int(trigger["actions"][0]["id"])


def generations(harness: Harness, rule: int) -> int:
    with harness.engine.connect() as connection:
        return len(
            connection.execute(select(alert_rule_generations).where(alert_rule_generations.c.rule_id == rule)).all()
        )


def create_trigger(rule: int, **fields: JSON) -> CreateTrigger:
    return CreateTrigger.model_validate({"alertRule": rule, "label": "warning", "alertThreshold": 50} | fields)


def update_trigger(rule: int, trigger: int, **fields: JSON) -> UpdateTrigger:
    return UpdateTrigger.model_validate({"alertRule": rule, "id": trigger} | fields)


def one_command_of_each(rule: int, trigger: int, action: int) -> list[RuleCommand]:
    in_trigger = {"alertRule": rule, "trigger": trigger}
    return [
        create_trigger(rule),
        update_trigger(rule, trigger, alertThreshold=200),
        CreateAction.model_validate(in_trigger | {"action": action_body(targetIdentifier=22)}),
        UpdateAction.model_validate(in_trigger | {"id": action, "action": action_body(targetIdentifier=22)}),
        DeleteAction.model_validate(in_trigger | {"id": action}),
        DeleteTrigger.model_validate({"alertRule": rule, "id": trigger}),
    ]


# --- triggers ---------------------------------------------------------------------------------------------------


def test_a_trigger_is_added(harness: Harness, acme: Acme) -> None:
    rule, first, _ = a_rule_with_action(harness, acme)

    status, shown = harness.execute(
        create_trigger(rule, actions=[action_body(targetIdentifier="22")]), **acme.by("ana")
    )

    [action] = shown["actions"]
    triggers = rule_row(harness, rule).definition["triggers"]
    assert status == 201
    assert shown == {
        "id": shown["id"],
        "alertRuleId": str(rule),
        "label": "warning",
        "thresholdType": 0,
        "alertThreshold": 50.0,
        "resolveThreshold": 20.0,
        "dateCreated": shown["dateCreated"],
        "actions": [action],
    }
    assert action["desc"] == "Send an email to members of #t2"
    assert [each["id"] for each in triggers] == [first, int(shown["id"])]


@pytest.mark.parametrize("fields", [{"alertThreshold": 70}, {"label": "fatal"}, {"actions": []}, {}])
def test_updating_a_trigger_leaves_omitted_fields_unchanged(
    harness: Harness, acme: Acme, fields: dict[str, JSON]
) -> None:
    rule, trigger, _ = a_rule_with_action(harness, acme)
    before = rule_row(harness, rule).definition["triggers"][0]

    status, shown = harness.execute(update_trigger(rule, trigger, **fields), **acme.by("mem"))

    after = rule_row(harness, rule).definition["triggers"][0]
    changed = {"alertThreshold": "threshold", "label": "label", "actions": "actions"}
    assert status == 200
    assert {name for name in before if before[name] != after[name]} == {changed[name] for name in fields}
    assert {name: shown[name] for name in fields} == fields


def test_labels_are_unique_within_a_rule(harness: Harness, acme: Acme) -> None:
    rule, trigger, _ = a_rule_with_action(harness, acme)
    harness.execute(create_trigger(rule), **acme.by("mem"))

    assert harness.execute(create_trigger(rule), **acme.by("mem")) == LABEL_TAKEN
    assert harness.execute(update_trigger(rule, trigger, label="warning"), **acme.by("mem")) == LABEL_TAKEN
    assert harness.execute(update_trigger(rule, trigger, label="critical"), **acme.by("mem"))[0] == 200


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"alertThreshold": 18}, "warning alert threshold must be above resolution threshold"),
        ({"alertThreshold": 101}, "Critical trigger must have an alert threshold above warning trigger"),
    ],
)
def test_a_trigger_is_validated_against_its_rule(
    harness: Harness, acme: Acme, fields: dict[str, JSON], sentence: str
) -> None:
    rule, _, _ = a_rule_with_action(harness, acme)

    outcome = harness.execute(create_trigger(rule, **fields), **acme.by("mem"))

    assert outcome == (400, {"nonFieldErrors": [sentence]})
    assert rule_row(harness, rule).version == 1


def test_the_threshold_of_a_comparison_trigger_is_given_as_a_difference(harness: Harness, acme: Acme) -> None:
    rule = a_rule(harness, acme, comparison_delta=60, triggers=[])

    _, shown = harness.execute(create_trigger(rule), **acme.by("mem"))

    assert shown["alertThreshold"] == 50.0
    assert rule_row(harness, rule).definition["triggers"][0]["threshold"] == 150.0


def test_the_last_trigger_can_be_deleted(harness: Harness, acme: Acme) -> None:
    rule, trigger, _ = a_rule_with_action(harness, acme)

    outcome = harness.execute(DeleteTrigger.model_validate({"alertRule": rule, "id": trigger}), **acme.by("mem"))

    assert outcome == (204, None)
    assert rule_row(harness, rule).definition["triggers"] == []


@pytest.mark.parametrize("index", [0, 1, 5], ids=["created", "updated", "deleted"])
def test_changing_triggers_begins_a_generation_and_closes_open_incidents(
    harness: Harness, acme: Acme, index: int
) -> None:
    rule, trigger, action = a_rule_with_action(harness, acme)
    number = an_incident_of_rule(harness, acme, rule)

    harness.execute(one_command_of_each(rule, trigger, action)[index], **acme.by("mem"))

    assert [each.payload["incident"] for each in follow_ups(harness)] == [str(number)]
    assert (rule_row(harness, rule).version, rule_row(harness, rule).generation, generations(harness, rule)) == (
        2,
        2,
        1,
    )
    assert rule_activities(harness, rule) == [(1, 11), (6, 11), (3, 11)]
    assert [type_ for type_, _, _ in published_events(harness, rule)] == ["alert_rule.created", "alert_rule.updated"]


# --- actions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "target", "desc"),
    [
        (action_body(), "21", "Send an email to members of #t1"),
        (action_body(targetType="user", targetIdentifier="0012"), "12", "Send a notification to ana@x.test"),
        (
            action_body(type="webhook", targetType="specific", targetIdentifier="https://hooks.x.test/1"),
            "https://hooks.x.test/1",
            "Send a notification to https://hooks.x.test/1 via webhook",
        ),
        (
            action_body(type="chat", targetType="specific", targetIdentifier="slack://token/ops"),
            "slack://token/ops",
            "Send a notification to slack://token/ops via chat",
        ),
    ],
)
def test_an_action_targets_a_person_a_team_or_an_address(
    harness: Harness, acme: Acme, body: dict[str, JSON], target: str, desc: str
) -> None:
    rule, trigger, _ = a_rule_with_action(harness, acme)
    command = CreateAction.model_validate({"alertRule": rule, "trigger": trigger, "action": body})

    status, shown = harness.execute(command, **acme.by("mem"))

    assert status == 201
    assert (shown["type"], shown["targetType"]) == (body["type"], body["targetType"])
    assert (shown["targetIdentifier"], shown["desc"], shown["alertRuleTriggerId"]) == (target, desc, str(trigger))
    assert len(rule_row(harness, rule).definition["triggers"][0]["actions"]) == 2


def test_updating_an_action_keeps_its_id_and_date(harness: Harness, acme: Acme) -> None:
    rule, trigger, action = a_rule_with_action(harness, acme)
    another = action_body(targetType="user", targetIdentifier=12)
    command = UpdateAction.model_validate({"alertRule": rule, "trigger": trigger, "id": action, "action": another})
    before = rule_row(harness, rule).definition["triggers"][0]["actions"][0]

    status, shown = harness.execute(command, **acme.by("mem"))

    [after] = rule_row(harness, rule).definition["triggers"][0]["actions"]
    assert (status, shown["id"], shown["targetIdentifier"]) == (200, str(action), "12")
    assert (after["id"], after["date_added"]) == (before["id"], before["date_added"])


def test_an_action_is_deleted(harness: Harness, acme: Acme) -> None:
    rule, trigger, action = a_rule_with_action(harness, acme)
    command = DeleteAction.model_validate({"alertRule": rule, "trigger": trigger, "id": action})

    first, second = (harness.execute(command, **acme.by("mem")) for _ in range(2))

    assert (first, second) == ((204, None), (404, NOT_FOUND))
    assert rule_row(harness, rule).definition["triggers"][0]["actions"] == []


@pytest.mark.parametrize("index", [2, 3, 4], ids=["created", "updated", "deleted"])
def test_changing_actions_keeps_the_generation_and_open_incidents(harness: Harness, acme: Acme, index: int) -> None:
    rule, trigger, action = a_rule_with_action(harness, acme)
    an_incident_of_rule(harness, acme, rule)

    harness.execute(one_command_of_each(rule, trigger, action)[index], **acme.by("mem"))

    assert (follow_ups(harness), generations(harness, rule)) == ([], 0)
    assert (rule_row(harness, rule).version, rule_row(harness, rule).generation) == (2, 1)
    assert rule_activities(harness, rule) == [(1, 11), (3, 11)]
    assert [type_ for type_, _, _ in published_events(harness, rule)] == ["alert_rule.created", "alert_rule.updated"]


@pytest.mark.parametrize(
    ("fields", "errors"),
    [
        ({"targetIdentifier": 23}, {"nonFieldErrors": ["Team does not exist"]}),
        ({"targetType": "user", "targetIdentifier": 14}, ["User does not belong to this organization"]),
    ],
)
def test_an_invalid_action_target_is_refused_with_the_reason(
    harness: Harness, acme: Acme, fields: dict[str, JSON], errors: JSON
) -> None:
    rule, trigger, action = a_rule_with_action(harness, acme)
    named = {"alertRule": rule, "trigger": trigger, "action": action_body(**fields)}
    commands = [
        CreateAction.model_validate(named),
        UpdateAction.model_validate(named | {"id": action}),
        create_trigger(rule, actions=[action_body(**fields)]),
    ]

    assert [harness.execute(command, **acme.by("mem")) for command in commands] == [(400, errors)] * 3
    assert rule_row(harness, rule).version == 1


# --- look-up ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", range(6))
def test_the_rule_the_trigger_and_the_action_must_belong_together(harness: Harness, acme: Acme, index: int) -> None:
    rule, trigger, action = a_rule_with_action(harness, acme)
    other_rule, other_trigger, other_action = a_rule_with_action(harness, acme)
    named = one_command_of_each(rule, trigger, action)[index]
    wrong = [one_command_of_each(0, trigger, action)[index], one_command_of_each(rule, 0, 0)[index]]
    wrong.append(one_command_of_each(rule, other_trigger, other_action)[index])
    if type(named) is CreateTrigger:
        wrong = wrong[:1]

    outcomes = [harness.execute(each, **acme.by("mem")) for each in wrong]

    assert outcomes == [(404, NOT_FOUND)] * len(outcomes)
    assert harness.execute(named, **acme.by("mem"))[0] in (200, 201, 204)
    assert rule_row(harness, other_rule).version == 1


@pytest.mark.parametrize("index", range(6))
def test_an_inaccessible_trigger_returns_403_or_404_if_the_feature_is_disabled(
    harness: Harness, acme: Acme, index: int
) -> None:
    trigger = Trigger(id=7, label="critical", threshold=100.0, date_added=NOW)
    closed = a_rule(harness, acme, organization="closed", project="c1", triggers=[trigger])
    plain = a_rule(harness, acme, organization="plain", project="n1", triggers=[trigger])

    command_in_closed, command_in_plain = (one_command_of_each(rule, 7, 8)[index] for rule in (closed, plain))

    assert harness.execute(command_in_closed, **acme.by("mem", organization="closed")) == (403, FORBIDDEN)
    assert harness.execute(command_in_plain, **acme.by("mem", organization="plain")) == (404, NOT_FOUND)
    assert (rule_row(harness, closed).version, rule_row(harness, plain).version) == (1, 1)
