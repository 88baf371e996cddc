"""The handler for observations: the incidents it opens, updates and closes, and the deliveries it plans."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert

from models.alert_rules.alert_rule import alert_rule_snoozes
from models.alert_rules.enums import ActionType, TargetType
from tasks.commands.alert_rules import DeleteRule
from tasks.commands.subscriptions import Subscribe
from tests.brokers import UNREACHABLE_BROKER, broker_settings
from tests.builders import a_trigger, an_action
from tests.handlers.acme import Acme
from tests.handlers.observed_rule import ANA, BEN, MEM, START, ObservedRule, rule_with_two_triggers
from tests.harness import Harness
from workers.notify.notifier import Notifier

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
"""The time at which an observation is accepted, in tests that depend on it."""


@pytest.fixture
def rule(harness: Harness, acme: Acme) -> ObservedRule:
    return rule_with_two_triggers(harness, acme)


def test_observations_move_an_incident_from_warning_to_critical_and_back_to_closed(rule: ObservedRule) -> None:
    outcomes = [rule.observe(value) for value in (60, 120, 80, 10)]

    assert [(code, body["fired"], body["resolved"]) for code, body in outcomes] == [
        (201, ["warning"], []),
        (201, ["critical"], []),
        (201, [], ["critical"]),
        (201, [], ["warning"]),
    ]
    assert [body["incident"]["status"] for _, body in outcomes] == [10, 20, 10, 2]
    assert rule.status_changes() == [(1, 10), (10, 20), (20, 10), (10, 2)]
    assert rule.trigger_statuses() == {"critical": 1, "warning": 1}
    assert rule.deliveries() == [
        ("email", MEM, "fire", 10),
        ("email", MEM, "fire", 20), ("email", ANA, "fire", 20),
        ("email", MEM, "resolve", 10), ("email", ANA, "resolve", 10),
        ("email", MEM, "resolve", 2), ("email", ANA, "resolve", 2),
    ]  # fmt: skip
    [incident] = rule.incidents()
    assert (incident.version, incident.status_method) == (5, 3)
    assert [event["type"] for event in rule.events(f"incidents/{incident.identifier}")] == [
        "incident.opened",
        *["incident.status_changed"] * 4,
    ]
    assert [
        (event["type"], event["data"]["trigger"]["label"]) for event in rule.events(f"alert-rules/{rule.rule_id}")
    ] == [
        ("alert_trigger.fired", "warning"),
        ("alert_trigger.fired", "critical"),
        ("alert_trigger.resolved", "critical"),
        ("alert_trigger.resolved", "warning"),
    ]


def test_an_incident_starts_and_ends_one_window_before_the_deciding_value(harness: Harness, acme: Acme) -> None:
    rule = ObservedRule(harness, acme, time_window=15, threshold_period=2)

    for value in (101, 101, 1, 1):
        rule.observe(value)

    [incident] = rule.incidents()
    assert (incident.date_started, incident.date_detected, incident.date_closed) == (
        START + timedelta(minutes=2 - 15 - 1),
        START + timedelta(minutes=2),
        START + timedelta(minutes=4 - 15 - 1),
    )


def test_an_incident_is_not_closed_before_it_started(harness: Harness, acme: Acme) -> None:
    rule = ObservedRule(harness, acme, time_window=15)
    rule.observe(101)
    with harness.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE incidents SET date_started = date_started + interval '1 hour'")

    rule.observe(1)

    [incident] = rule.incidents()
    assert incident.date_closed == incident.date_started


def test_an_incident_opened_by_a_rule_refers_to_the_rule(rule: ObservedRule) -> None:
    _, body = rule.observe(60)

    shown = body["incident"]
    assert (shown["title"], shown["type"], shown["statusMethod"], shown["projects"]) == ("Errors", 2, 3, ["p1"])
    assert (shown["alertRule"]["id"], shown["alertRule"]["status"]) == (str(rule.rule_id), 0)
    assert (shown["activities"], shown["seenBy"]) == (None, None)
    [incident] = rule.incidents()
    assert (incident.alert_rule_generation, incident.identifier) == (1, 2)


def test_activities_of_an_incident_opened_by_a_rule_have_no_author(
    harness: Harness, acme: Acme, rule: ObservedRule
) -> None:
    harness.execute(rule.observation(120), **acme.by("mem"))

    [incident] = rule.incidents()
    rows = rule.rows(
        "SELECT type, user_id, date_added FROM incident_activities WHERE incident_id = :id ORDER BY id", id=incident.id
    )
    assert [(row.type, row.user_id) for row in rows] == [(4, None), (1, None), (2, None), (2, None)]
    assert [row.date_added for row in rows] == [incident.date_started, *[incident.date_added] * 3]
    assert harness.row_counts()["incident_subscriptions"] == 0
    actors = {event["data"]["actor"]["type"] for event in rule.events(f"incidents/{incident.identifier}")}
    assert actors == {"system"}


def test_a_value_that_fires_two_triggers_changes_the_status_twice_and_notifies_each_target_once(
    rule: ObservedRule,
) -> None:
    code, body = rule.observe(120)

    assert (code, body["fired"], body["incident"]["status"]) == (201, ["warning", "critical"], 20)
    assert rule.status_changes() == [(1, 10), (10, 20)]
    assert rule.deliveries() == [("email", MEM, "fire", 20), ("email", ANA, "fire", 20)]


def test_a_value_that_resolves_two_triggers_closes_the_incident_at_once(rule: ObservedRule) -> None:
    rule.observe(120)

    _, body = rule.observe(10)

    assert body["resolved"] == ["warning", "critical"]
    assert rule.status_changes()[2:] == [(20, 2)]
    assert rule.deliveries()[2:] == [("email", MEM, "resolve", 2), ("email", ANA, "resolve", 2)]


def test_people_not_notified_of_the_start_are_not_notified_of_the_end(rule: ObservedRule) -> None:
    rule.observe(60)
    rule.observe(10)

    assert rule.deliveries() == [("email", MEM, "fire", 10), ("email", MEM, "resolve", 2)]


def test_a_value_without_effect_returns_the_open_incident(rule: ObservedRule) -> None:
    nothing_open = rule.observe(10)
    rule.observe(60)
    still_open = rule.observe(70)

    assert nothing_open == (201, {"fired": [], "resolved": [], "incident": None})
    code, body = still_open
    assert (code, body["fired"], body["resolved"], body["incident"]["status"]) == (201, [], [], 10)
    assert "ignored" not in body


def test_a_trigger_event_contains_the_rule_the_incident_and_the_value(rule: ObservedRule) -> None:
    rule.observe(60)

    [event] = rule.events(f"alert-rules/{rule.rule_id}")
    [incident] = rule.incidents()
    data = event["data"]
    assert data["alertRule"] == {"id": str(rule.rule_id), "name": "Errors", "version": 1}
    assert (data["incident"]["identifier"], data["incident"]["status"]) == (str(incident.identifier), 10)
    assert (data["trigger"]["label"], data["project"], data["value"]) == ("warning", "p1", 60)
    assert data["timestamp"] == "2026-11-23T10:01:00Z"


# --- ignored observations --------------------------------------------------------------------------------------


def test_repeated_and_older_timestamps_are_ignored_with_their_reasons(rule: ObservedRule) -> None:
    rule.observe(10, timestamp="2026-11-23T12:00:00Z")

    repeated = rule.observe(120, timestamp="2026-11-23T13:00:00+01:00")
    older = rule.observe(120, timestamp="2026-11-23T11:59:59.999999Z")

    assert repeated == (200, {"fired": [], "resolved": [], "incident": None, "ignored": "repeated timestamp"})
    assert older == (200, {"fired": [], "resolved": [], "incident": None, "ignored": "out of order"})
    assert rule.incidents() == []


def test_timestamps_are_tracked_per_project(harness: Harness, acme: Acme) -> None:
    rule = ObservedRule(harness, acme, projects=("p1", "p2"))
    rule.observe(101, timestamp="2026-11-23T12:00:00Z")

    _, body = rule.observe(101, project="p2", timestamp="2026-11-23T11:00:00Z")

    assert body["fired"] == ["critical"]
    assert [row.identifier for row in rule.incidents()] == [2, 3]


def test_values_within_ten_minutes_of_the_incidents_creation_are_ignored(rule: ObservedRule) -> None:
    rule.observe(120, at=NOON)
    rule.observe(10, at=NOON)

    cooling = rule.observe(120, at=NOON + timedelta(minutes=10))
    cooled = rule.observe(120, at=NOON + timedelta(minutes=10, seconds=1))

    assert cooling == (200, {"fired": [], "resolved": [], "incident": None, "ignored": "cooling down"})
    assert (cooled[0], cooled[1]["fired"]) == (201, ["warning", "critical"])
    assert len(rule.incidents()) == 2


def test_elapsed_days_count_towards_the_cooldown(rule: ObservedRule) -> None:
    rule.observe(120, at=NOON)
    rule.observe(10, at=NOON)

    _, body = rule.observe(120, at=NOON + timedelta(days=1, minutes=5))

    assert body["fired"] == ["warning", "critical"]


def test_the_cooldown_is_per_project(harness: Harness, acme: Acme) -> None:
    rule = ObservedRule(harness, acme, projects=("p1", "p2"))
    rule.observe(101, at=NOON)
    rule.observe(1, at=NOON)
    rule.observe(101, project="p2", at=NOON + timedelta(minutes=6))

    still_cooling = rule.observe(101, at=NOON + timedelta(minutes=8))
    cooled = rule.observe(101, at=NOON + timedelta(minutes=11))

    assert (still_cooling[1].get("ignored"), cooled[1]["fired"]) == ("cooling down", ["critical"])


def test_a_null_value_counts_as_zero(harness: Harness, acme: Acme) -> None:
    rule = ObservedRule(harness, acme)
    rule.observe(101)

    _, body = rule.observe(None)

    assert body["resolved"] == ["critical"]


def test_values_of_a_rule_on_transactions_are_ignored_without_the_performance_feature(
    harness: Harness, acme: Acme
) -> None:
    rule = ObservedRule(harness, acme, dataset="transactions")
    ignored = rule.observe(101)
    with harness.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE organizations SET features = '{organizations:incidents,organizations:performance-view}'"
        )

    _, seen = rule.observe(101)

    assert (ignored[0], ignored[1]["ignored"]) == (200, "performance-view is off")
    assert seen["fired"] == ["critical"]


def test_a_comparison_without_a_past_value_is_ignored(harness: Harness, acme: Acme) -> None:
    rule = ObservedRule(harness, acme, a_trigger("critical", 200), comparison_delta=60)

    assert rule.observe(50)[1].get("ignored") == "no comparison value"
    assert rule.observe(50, comparisonValue=0)[1].get("ignored") == "no comparison value"
    assert rule.observe(50, comparisonValue=20)[1]["fired"] == ["critical"]


# --- permissions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"alertRule": 999}, 404),
        ({"alertRule": "x"}, 404),
        ({"alertRule": 2**63}, 404),
        ({"project": "nowhere"}, (400, {"project": ["Invalid project"]})),
        ({"project": "p2"}, (400, {"project": ["Invalid project"]})),
        ({"project": "c1"}, (400, {"project": ["Invalid project"]})),
    ],
)
def test_a_missing_rule_or_project_is_refused_and_nothing_is_recorded(
    rule: ObservedRule, fields: dict[str, Any], expected: Any
) -> None:
    code, body = rule.observe(120, **fields)

    assert expected in (code, (code, body))
    assert (rule.observation_results(), rule.incidents()) == ([], [])


def test_an_observation_of_an_inactive_project_is_refused(harness: Harness, rule: ObservedRule) -> None:
    with harness.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE projects SET status = 'inactive' WHERE slug = 'p1'")

    assert rule.observe(120)[0] == 403


def test_a_deleted_rule_and_another_organizations_rule_are_404(
    harness: Harness, acme: Acme, rule: ObservedRule
) -> None:
    abroad, _ = harness.execute(rule.observation(120), **acme.by("mem", organization="closed"))
    with harness.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alert_rules SET status = 4")

    deleted, _ = rule.observe(120)

    assert (abroad, deleted) == (404, 404)


def test_a_rule_may_be_deleted_in_the_same_batch_in_which_it_is_observed(
    harness: Harness, acme: Acme, rule: ObservedRule
) -> None:
    observed = rule.accept(1)
    deleted = harness.accept(DeleteRule.model_validate({"alertRule": rule.rule_id}), **acme.by("own"))

    harness.apply()

    rows = [harness.ledger_row(id_) for id_ in (observed, deleted)]
    assert [(row["outcome_status"], row["attempts"]) for row in rows] == [(201, 1), (204, 1)]
    assert len(harness.results) == 1
    assert rule.rows("SELECT FROM alert_rule_progress") == []


def test_sending_a_value_requires_permission_to_create_rules_and_access_to_the_project(
    harness: Harness, acme: Acme, rule: ObservedRule
) -> None:
    of_a_member, _ = harness.execute(rule.observation(1), **acme.by("mem"))
    of_a_stranger, _ = harness.execute(rule.observation(2), **acme.by("out"))
    with harness.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE tokens SET scopes = '{project:write}' WHERE name = 'bot'")
    without_the_scope, _ = harness.execute(rule.observation(3), **acme.by_service())
    with harness.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE organizations SET alerts_member_write = false")
    of_a_member_who_may_not_write, _ = harness.execute(rule.observation(4), **acme.by("mem"))
    with harness.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE organizations SET open_membership = false, alerts_member_write = true")
        connection.exec_driver_sql("UPDATE team_members SET is_active = false")
    without_the_project, _ = harness.execute(rule.observation(5), **acme.by("mem"))

    assert (of_a_member, of_a_stranger, without_the_scope) == (201, 403, 403)
    assert (of_a_member_who_may_not_write, without_the_project) == (403, 403)


def test_without_the_incidents_feature_observing_a_value_is_404(harness: Harness, rule: ObservedRule) -> None:
    with harness.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE organizations SET features = '{}'")

    assert rule.observe(120)[0] == 404


# --- deliveries ------------------------------------------------------------------------------------------------


@pytest.fixture
def rule_with(harness: Harness, acme: Acme) -> Callable[..., ObservedRule]:
    """A function that builds a rule whose critical trigger has the given actions."""
    return lambda *actions: ObservedRule(harness, acme, a_trigger("critical", 100, *actions))


def test_a_team_action_notifies_its_active_members(
    harness: Harness, acme: Acme, rule_with: Callable[..., ObservedRule]
) -> None:
    with harness.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE users SET is_active = false WHERE username = 'ana'")
    rule = rule_with(an_action(21, target_type=TargetType.TEAM))

    rule.observe(101)

    assert rule.deliveries() == [("email", MEM, "fire", 20), ("email", BEN, "fire", 20)]
    assert rule.decisions() == [(MEM, "pending", "alert_action"), (BEN, "pending", "alert_action")]


def test_a_person_targeted_twice_is_notified_once(rule_with: Callable[..., ObservedRule]) -> None:
    rule = rule_with(an_action(MEM), an_action(21, target_type=TargetType.TEAM))

    rule.observe(101)

    assert [user for _, user, *_ in rule.deliveries()] == [MEM, ANA, BEN]


def test_webhook_and_chat_targets_are_used_as_entered(rule_with: Callable[..., ObservedRule]) -> None:
    rule = rule_with(
        an_action("https://x.test/hook", action_type=ActionType.WEBHOOK, target_type=TargetType.SPECIFIC),
        an_action("slack://a/b/c", action_type=ActionType.CHAT, target_type=TargetType.SPECIFIC),
    )

    rule.observe(101)

    assert rule.deliveries() == [("webhook", "https://x.test/hook", "fire", 20), ("chat", "slack://a/b/c", "fire", 20)]
    assert rule.decisions() == []


def test_a_delivery_refers_to_the_change_the_action_and_the_project(rule_with: Callable[..., ObservedRule]) -> None:
    action = an_action(MEM)
    rule = rule_with(action)

    rule.observe(101, at=NOON)

    [row] = rule.rows("SELECT * FROM deliveries")
    [change] = rule.rows("SELECT id FROM incident_activities WHERE type = 2")
    [incident] = rule.incidents()
    assert (row.activity_id, row.incident_id, row.rule_id, row.action_id) == (
        change.id, incident.id, rule.rule_id, action.id,
    )  # fmt: skip
    assert (row.project_id, row.state, row.attempts) == (rule.acme.projects["acme", "p1"], "pending", 0)
    assert row.due_at == NOON


def test_a_former_member_is_not_notified_and_the_decision_says_why(
    harness: Harness, rule_with: Callable[..., ObservedRule]
) -> None:
    # User 14 (Out) is not a member, and user 99 does not exist.
    rule = rule_with(an_action(14), an_action(99))

    rule.observe(101)

    assert rule.deliveries() == []
    assert rule.decisions() == [(14, "suppressed", "no_access")]


@pytest.mark.parametrize(
    ("user", "until", "notified"),
    [
        (None, None, []),
        (None, NOON + timedelta(seconds=1), []),
        (None, NOON, [MEM, ANA, "https://x.test/"]),
        (MEM, None, [ANA, "https://x.test/"]),
        (MEM, NOON, [MEM, ANA, "https://x.test/"]),
    ],
)
def test_a_snooze_suppresses_deliveries_until_it_expires_and_is_recorded_in_decisions(
    harness: Harness,
    rule_with: Callable[..., ObservedRule],
    user: int | None,
    until: datetime | None,
    notified: list[int | str],
) -> None:
    hook = an_action("https://x.test/", action_type=ActionType.WEBHOOK, target_type=TargetType.SPECIFIC)
    rule = rule_with(an_action(MEM), an_action(ANA), hook)
    with harness.engine.begin() as connection:
        connection.execute(
            insert(alert_rule_snoozes).values(rule_id=rule.rule_id, user_id=user, until=until, date_added=START)
        )

    rule.observe(101, at=NOON)

    assert [target for _, target, *_ in rule.deliveries()] == notified
    assert rule.decisions() == [
        (person, "pending", "alert_action") if person in notified else (person, "suppressed", "snoozed")
        for person in (MEM, ANA)
    ]


def test_subscribers_are_not_notified_of_changes_made_by_observations(
    harness: Harness, acme: Acme, rule: ObservedRule
) -> None:
    rule.observe(60)
    [incident] = rule.incidents()
    harness.execute(Subscribe.model_validate({"incident": incident.identifier}), **acme.by("mem"))
    harness.execute(rule.observation(120), **acme.by("ana"))

    notifier = Notifier(harness.engine, broker_settings(UNREACHABLE_BROKER))
    while notifier.plan_batch():
        pass

    assert harness.row_counts()["notifications"] == 0


# --- recorded observations -------------------------------------------------------------------------------------


def test_every_observation_is_recorded_with_its_result_and_counters(harness: Harness, acme: Acme) -> None:
    rule = ObservedRule(harness, acme, threshold_period=2)
    rule.observe(101)
    rule.observe(101)
    rule.observe(101, timestamp=START.isoformat())

    assert rule.observation_results() == [
        {"fired": [], "resolved": [], "incident": None, "counted": {"critical": {"alerts": 1, "resolves": 0}}},
        {"fired": ["critical"], "resolved": [], "incident": "2", "counted": {"critical": {"alerts": 0, "resolves": 0}}},
        {
            "fired": [], "resolved": [], "incident": "2", "ignored": "out of order",
            "counted": {"critical": {"alerts": 0, "resolves": 0}},
        },
    ]  # fmt: skip


def test_the_last_five_hundred_observations_are_kept(harness: Harness, acme: Acme) -> None:
    rule = ObservedRule(harness, acme)
    harness.accept_all([rule.observation(number) for number in range(1, 521)], **rule.by_service())

    harness.apply()

    rows = rule.rows("SELECT number, value FROM alert_rule_observations ORDER BY number")
    assert [(row.number, row.value) for row in rows] == [(number, number) for number in range(21, 521)]
