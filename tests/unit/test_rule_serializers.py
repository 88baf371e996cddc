"""Serialization of alert rules to JSON."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from enum import IntEnum
from typing import Any

import pytest

from models.alert_rules.alert_rule import AlertRule, RuleActivityType, RuleStatus, Snooze, Trigger, TriggerStatus
from models.alert_rules.enums import ActivationCondition, MonitorType, QueryType, ThresholdType
from models.alert_rules.serializers import RuleReferences, RuleSnapshot, discover_query, rule_details_json, rule_json
from models.directory.tables import Person
from tests.builders import NOW, a_definition

OWN = Person(15, "own", "Own", "own@x.test", True, False, NOW)
NAMES = RuleReferences(projects={1: "zeta", 2: "alpha"}, people={15: OWN})


def a_rule(**facts: Any) -> AlertRule:
    return AlertRule(
        id=5,
        organization_id=1,
        status=RuleStatus.PENDING,
        version=3,
        generation=2,
        event_sequence=0,
        created_by=15,
        definition=a_definition(**facts),
        date_added=NOW,
        date_modified=NOW,
        projects=frozenset({1, 2}),
    )


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        (RuleStatus, {"PENDING": 0, "SNAPSHOT": 4, "DISABLED": 5}),
        (ThresholdType, {"ABOVE": 0, "BELOW": 1}),
        (QueryType, {"ERROR": 0, "PERFORMANCE": 1, "CRASH_RATE": 2}),
        (MonitorType, {"CONTINUOUS": 0, "ACTIVATED": 1}),
        (ActivationCondition, {"RELEASE_CREATION": 0, "DEPLOY_CREATION": 1}),
        (TriggerStatus, {"ACTIVE": 0, "RESOLVED": 1}),
        (RuleActivityType, {"CREATED": 1, "DELETED": 2, "UPDATED": 3, "SNAPSHOT": 6}),
    ],
)
def test_enum_values_match_sentrys_api(kind: type[IntEnum], numbers: dict[str, int]) -> None:
    assert {each.name: each.value for each in kind} == numbers


def test_projects_are_serialized_as_sorted_slugs() -> None:
    assert rule_json(RuleSnapshot.current(a_rule()), NAMES, is_snoozed=False)["projects"] == ["alpha", "zeta"]


def test_triggers_are_sorted_by_label() -> None:
    warning, critical = (
        Trigger(id=id_, label=label, threshold=1.0, date_added=NOW) for id_, label in ((1, "warning"), (2, "critical"))
    )
    rule = a_rule()
    rule.definition = rule.definition.with_triggers([warning, critical])

    shown = rule_json(RuleSnapshot.current(rule), NAMES, is_snoozed=False)

    assert [each["label"] for each in shown["triggers"]] == ["critical", "warning"]


@pytest.mark.parametrize(
    ("facts", "written"),
    [
        ({}, {"environment": None, "description": "", "owner": None, "comparisonDelta": None}),
        ({"environment": "production"}, {"environment": "production"}),
        ({"description": "Look."}, {"description": "Look."}),
        ({"owner_user": 15}, {"owner": "user:15"}),
        ({"owner_team": 21}, {"owner": "team:21"}),
        ({"comparison_delta": 60}, {"comparisonDelta": 60.0}),
        ({"aggregate": "count_unique(tags[sentry:user])"}, {"aggregate": "count_unique(user)"}),
    ],
)
def test_optional_fields_are_serialized_as_in_sentrys_api(facts: dict[str, Any], written: dict[str, Any]) -> None:
    shown = rule_json(RuleSnapshot.current(a_rule(**facts)), NAMES, is_snoozed=False)

    assert {name: value for name, value in shown.items() if name in written} == written
    assert (shown["timeWindow"], shown["resolution"]) == (10.0, 1.0)


def test_the_creator_has_an_integer_id_and_is_null_if_deleted() -> None:
    known = rule_json(RuleSnapshot.current(a_rule()), NAMES, is_snoozed=False)
    gone = rule_json(RuleSnapshot.current(a_rule()), RuleReferences(projects=NAMES.projects), is_snoozed=False)

    assert known["createdBy"] == {"id": 15, "name": "Own", "email": "own@x.test"}
    assert gone["createdBy"] is None


def test_a_snapshot_names_its_original_rule_on_request() -> None:
    rule = a_rule(name="Now")
    earlier = RuleSnapshot(rule, a_definition(name="Then"), NOW - timedelta(hours=1), is_snapshot=True)

    asked = rule_json(earlier, NAMES, is_snoozed=False, shows_original=True)
    unasked = rule_json(earlier, NAMES, is_snoozed=False)

    assert (asked["name"], asked["status"], asked["dateModified"]) == ("Then", 4, "2026-11-23T09:00:00Z")
    assert (asked["originalAlertRuleId"], unasked["originalAlertRuleId"]) == (5, None)
    assert (
        rule_json(RuleSnapshot.current(rule), NAMES, is_snoozed=False, shows_original=True)["originalAlertRuleId"]
        is None
    )


def test_in_a_list_the_snooze_field_is_true_or_absent() -> None:
    snoozed, awake = (rule_json(RuleSnapshot.current(a_rule()), NAMES, is_snoozed=each) for each in (True, False))

    assert snoozed["snooze"] is True
    assert "snooze" not in awake


@pytest.mark.parametrize(
    ("user", "owner", "viewer", "facts"),
    [
        (None, 15, 11, {"snooze": True, "snoozeForEveryone": True, "snoozeCreatedBy": "Own"}),
        (None, 15, 15, {"snooze": True, "snoozeForEveryone": True, "snoozeCreatedBy": "You"}),
        (11, 11, 11, {"snooze": True, "snoozeForEveryone": False, "snoozeCreatedBy": "You"}),
        (11, 11, 12, {"snooze": False}),
        (None, 99, 11, {"snooze": True, "snoozeForEveryone": True}),
        (None, None, None, {"snooze": True, "snoozeForEveryone": True}),
    ],
)
def test_details_show_who_snoozed_the_rule_and_for_whom(
    user: int | None, owner: int | None, viewer: int | None, facts: dict[str, Any]
) -> None:
    snooze = Snooze(5, user, owner, None, NOW)

    details = rule_details_json(a_rule(), NAMES, snoozes=[snooze], viewer=viewer)

    assert {name: value for name, value in details.items() if name.startswith("snooze")} == facts


def test_details_add_event_types_and_excluded_projects() -> None:
    details = rule_details_json(
        a_rule(event_types=("error", "default"), excluded_projects=("p2",)), NAMES, snoozes=[], viewer=None
    )

    assert (details["eventTypes"], details["excludedProjects"]) == (["default", "error"], ["p2"])


@pytest.mark.parametrize(
    ("facts", "query"),
    [
        ({"event_types": ("error",), "query": ""}, "event.type:error"),
        ({"event_types": ("error", "default"), "query": ""}, "event.type:error OR event.type:default"),
        (
            {"event_types": ("error", "default"), "query": "level:error"},
            "(event.type:error OR event.type:default) AND (level:error)",
        ),
        ({"event_types": (), "query": "a:b"}, "(event.type:error) AND (a:b)"),
        (
            {"event_types": (), "query": "a:b", "query_type": QueryType.PERFORMANCE},
            "(event.type:transaction) AND (a:b)",
        ),
        ({"event_types": (), "query": "a:b", "query_type": QueryType.CRASH_RATE}, "a:b"),
        ({"event_types": (), "query": "", "query_type": QueryType.CRASH_RATE}, ""),
    ],
)
def test_the_discover_query_combines_event_types_and_query(facts: dict[str, Any], query: str) -> None:
    assert discover_query(a_definition(**facts)) == query


def test_comparison_thresholds_are_shown_as_differences() -> None:
    above = a_rule(comparison_delta=60, resolve_threshold=110.0)
    below = replace(above, definition=a_definition(
        comparison_delta=60, resolve_threshold=90.0, threshold_type=ThresholdType.BELOW))  # fmt: skip

    shown = [
        rule_json(RuleSnapshot.current(each), NAMES, is_snoozed=False)["resolveThreshold"] for each in (above, below)
    ]

    assert shown == [10.0, 10.0]
