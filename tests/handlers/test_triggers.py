"""Triggers and actions of alert rules, changed one by one."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from models.alert_rules.alert_rule import Trigger, alert_rule_generations
from models.enums import JSON
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
from tests.handlers.conftest import Harness
from tests.handlers.rule_orders import (
    FORBIDDEN,
    MISSING,
    a_finding,
    a_rule,
    activities,
    an_action,
    announced,
    creation,
    follow_ups,
    row,
)

TAKEN = (400, ["This label is already in use for this alert rule"])


def told(house: Harness, acme: Acme, **who: Any) -> tuple[int, int, int]:
    """A rule with one trigger that tells somebody: ids of the three."""
    critical = {"label": "critical", "alertThreshold": 100, "actions": [an_action(**who)]}
    _, made = house.execute(creation(triggers=[critical], resolveThreshold=20), **acme.by("mem"))
    [trigger] = made["triggers"]
    return int(made["id"]), int(trigger["id"]), int(trigger["actions"][0]["id"])


def generations(house: Harness, rule: int) -> int:
    with house.engine.connect() as connection:
        return len(
            connection.execute(select(alert_rule_generations).where(alert_rule_generations.c.rule_id == rule)).all()
        )


def a_trigger(rule: int, **fields: JSON) -> CreateTrigger:
    return CreateTrigger.model_validate({"alertRule": rule, "label": "warning", "alertThreshold": 50} | fields)


def a_change(rule: int, trigger: int, **fields: JSON) -> UpdateTrigger:
    return UpdateTrigger.model_validate({"alertRule": rule, "id": trigger} | fields)


def an_order_of_each(rule: int, trigger: int, action: int) -> list[RuleCommand]:
    in_trigger = {"alertRule": rule, "trigger": trigger}
    return [
        a_trigger(rule),
        a_change(rule, trigger, alertThreshold=200),
        CreateAction.model_validate(in_trigger | {"action": an_action(targetIdentifier=22)}),
        UpdateAction.model_validate(in_trigger | {"id": action, "action": an_action(targetIdentifier=22)}),
        DeleteAction.model_validate(in_trigger | {"id": action}),
        DeleteTrigger.model_validate({"alertRule": rule, "id": trigger}),
    ]


# --- triggers ---------------------------------------------------------------------------------------------------


def test_a_trigger_is_added(house: Harness, acme: Acme) -> None:
    rule, first, _ = told(house, acme)

    status, shown = house.execute(a_trigger(rule, actions=[an_action(targetIdentifier="22")]), **acme.by("ana"))

    [action] = shown["actions"]
    said = row(house, rule).definition["triggers"]
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
    assert [each["id"] for each in said] == [first, int(shown["id"])]


@pytest.mark.parametrize("fields", [{"alertThreshold": 70}, {"label": "fatal"}, {"actions": []}, {}])
def test_a_change_of_a_trigger_keeps_what_is_left_out(house: Harness, acme: Acme, fields: dict[str, JSON]) -> None:
    rule, trigger, _ = told(house, acme)
    before = row(house, rule).definition["triggers"][0]

    status, shown = house.execute(a_change(rule, trigger, **fields), **acme.by("mem"))

    after = row(house, rule).definition["triggers"][0]
    changed = {"alertThreshold": "threshold", "label": "label", "actions": "actions"}
    assert status == 200
    assert {name for name in before if before[name] != after[name]} == {changed[name] for name in fields}
    assert {name: shown[name] for name in fields} == fields


def test_a_label_is_there_once(house: Harness, acme: Acme) -> None:
    rule, trigger, _ = told(house, acme)
    house.execute(a_trigger(rule), **acme.by("mem"))

    assert house.execute(a_trigger(rule), **acme.by("mem")) == TAKEN
    assert house.execute(a_change(rule, trigger, label="warning"), **acme.by("mem")) == TAKEN
    assert house.execute(a_change(rule, trigger, label="critical"), **acme.by("mem"))[0] == 200


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"alertThreshold": 18}, "warning alert threshold must be above resolution threshold"),
        ({"alertThreshold": 101}, "Critical trigger must have an alert threshold above warning trigger"),
    ],
)
def test_a_trigger_must_fit_its_rule(house: Harness, acme: Acme, fields: dict[str, JSON], sentence: str) -> None:
    rule, _, _ = told(house, acme)

    answered = house.execute(a_trigger(rule, **fields), **acme.by("mem"))

    assert answered == (400, {"nonFieldErrors": [sentence]})
    assert row(house, rule).version == 1


def test_the_threshold_of_a_comparison_is_a_difference_here_too(house: Harness, acme: Acme) -> None:
    rule = a_rule(house, acme, comparison_delta=60, triggers=[])

    _, shown = house.execute(a_trigger(rule), **acme.by("mem"))

    assert shown["alertThreshold"] == 50.0
    assert row(house, rule).definition["triggers"][0]["threshold"] == 150.0


def test_the_last_trigger_may_go(house: Harness, acme: Acme) -> None:
    rule, trigger, _ = told(house, acme)

    answered = house.execute(DeleteTrigger.model_validate({"alertRule": rule, "id": trigger}), **acme.by("mem"))

    assert answered == (204, None)
    assert row(house, rule).definition["triggers"] == []


@pytest.mark.parametrize("place", [0, 1, 5], ids=["created", "updated", "deleted"])
def test_another_threshold_is_another_rule_as_far_as_incidents_are_concerned(
    house: Harness, acme: Acme, place: int
) -> None:
    rule, trigger, action = told(house, acme)
    number = a_finding(house, acme, rule)

    house.execute(an_order_of_each(rule, trigger, action)[place], **acme.by("mem"))

    assert [each.payload["incident"] for each in follow_ups(house)] == [str(number)]
    assert (row(house, rule).version, row(house, rule).generation, generations(house, rule)) == (2, 2, 1)
    assert activities(house, rule) == [(1, 11), (6, 11), (3, 11)]
    assert [type_ for type_, _, _ in announced(house, rule)] == ["alert_rule.created", "alert_rule.updated"]


# --- actions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "target", "desc"),
    [
        (an_action(), "21", "Send an email to members of #t1"),
        (an_action(targetType="user", targetIdentifier="0012"), "12", "Send a notification to ana@x.test"),
        (
            an_action(type="webhook", targetType="specific", targetIdentifier="https://hooks.x.test/1"),
            "https://hooks.x.test/1",
            "Send a notification to https://hooks.x.test/1 via webhook",
        ),
        (
            an_action(type="chat", targetType="specific", targetIdentifier="slack://token/ops"),
            "slack://token/ops",
            "Send a notification to slack://token/ops via chat",
        ),
    ],
)
def test_an_action_tells_a_person_a_team_or_an_address(
    house: Harness, acme: Acme, asked: dict[str, JSON], target: str, desc: str
) -> None:
    rule, trigger, _ = told(house, acme)
    order = CreateAction.model_validate({"alertRule": rule, "trigger": trigger, "action": asked})

    status, shown = house.execute(order, **acme.by("mem"))

    assert status == 201
    assert (shown["type"], shown["targetType"]) == (asked["type"], asked["targetType"])
    assert (shown["targetIdentifier"], shown["desc"], shown["alertRuleTriggerId"]) == (target, desc, str(trigger))
    assert len(row(house, rule).definition["triggers"][0]["actions"]) == 2


def test_an_action_that_is_changed_stays_the_same_one(house: Harness, acme: Acme) -> None:
    rule, trigger, action = told(house, acme)
    another = an_action(targetType="user", targetIdentifier=12)
    order = UpdateAction.model_validate({"alertRule": rule, "trigger": trigger, "id": action, "action": another})
    before = row(house, rule).definition["triggers"][0]["actions"][0]

    status, shown = house.execute(order, **acme.by("mem"))

    [after] = row(house, rule).definition["triggers"][0]["actions"]
    assert (status, shown["id"], shown["targetIdentifier"]) == (200, str(action), "12")
    assert (after["id"], after["date_added"]) == (before["id"], before["date_added"])


def test_an_action_is_taken_away(house: Harness, acme: Acme) -> None:
    rule, trigger, action = told(house, acme)
    order = DeleteAction.model_validate({"alertRule": rule, "trigger": trigger, "id": action})

    first, second = (house.execute(order, **acme.by("mem")) for _ in range(2))

    assert (first, second) == ((204, None), (404, MISSING))
    assert row(house, rule).definition["triggers"][0]["actions"] == []


@pytest.mark.parametrize("place", [2, 3, 4], ids=["created", "updated", "deleted"])
def test_who_is_told_may_change_without_ending_anything(house: Harness, acme: Acme, place: int) -> None:
    rule, trigger, action = told(house, acme)
    a_finding(house, acme, rule)

    house.execute(an_order_of_each(rule, trigger, action)[place], **acme.by("mem"))

    assert (follow_ups(house), generations(house, rule)) == ([], 0)
    assert (row(house, rule).version, row(house, rule).generation) == (2, 1)
    assert activities(house, rule) == [(1, 11), (3, 11)]
    assert [type_ for type_, _, _ in announced(house, rule)] == ["alert_rule.created", "alert_rule.updated"]


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"targetIdentifier": 23}, {"nonFieldErrors": ["Team does not exist"]}),
        ({"targetType": "user", "targetIdentifier": 14}, ["User does not belong to this organization"]),
    ],
)
def test_whom_an_action_cannot_tell_is_told_apart(
    house: Harness, acme: Acme, fields: dict[str, JSON], wrong: JSON
) -> None:
    rule, trigger, action = told(house, acme)
    named = {"alertRule": rule, "trigger": trigger, "action": an_action(**fields)}
    orders = [
        CreateAction.model_validate(named),
        UpdateAction.model_validate(named | {"id": action}),
        a_trigger(rule, actions=[an_action(**fields)]),
    ]

    assert [house.execute(order, **acme.by("mem")) for order in orders] == [(400, wrong)] * 3
    assert row(house, rule).version == 1


# --- where ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", range(6))
def test_a_rule_a_trigger_and_an_action_must_be_each_others(house: Harness, acme: Acme, place: int) -> None:
    rule, trigger, action = told(house, acme)
    other_rule, other_trigger, other_action = told(house, acme)
    named = an_order_of_each(rule, trigger, action)[place]
    wrong = [an_order_of_each(0, trigger, action)[place], an_order_of_each(rule, 0, 0)[place]]
    wrong.append(an_order_of_each(rule, other_trigger, other_action)[place])
    if type(named) is CreateTrigger:
        wrong = wrong[:1]

    answers = [house.execute(each, **acme.by("mem")) for each in wrong]

    assert answers == [(404, MISSING)] * len(answers)
    assert house.execute(named, **acme.by("mem"))[0] in (200, 201, 204)
    assert row(house, other_rule).version == 1


@pytest.mark.parametrize("place", range(6))
def test_a_trigger_out_of_reach_is_forbidden_and_without_the_feature_there_is_none(
    house: Harness, acme: Acme, place: int
) -> None:
    trigger = Trigger(id=7, label="critical", threshold=100.0, date_added=NOW)
    closed = a_rule(house, acme, organization="closed", project="c1", triggers=[trigger])
    plain = a_rule(house, acme, organization="plain", project="n1", triggers=[trigger])

    order_in_closed, order_in_plain = (an_order_of_each(rule, 7, 8)[place] for rule in (closed, plain))

    assert house.execute(order_in_closed, **acme.by("mem", organization="closed")) == (403, FORBIDDEN)
    assert house.execute(order_in_plain, **acme.by("mem", organization="plain")) == (404, MISSING)
    assert (row(house, closed).version, row(house, plain).version) == (1, 1)
