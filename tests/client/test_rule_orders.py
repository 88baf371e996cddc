"""What a service does with alert rules through the client: make one, send its values, keep it silent, take it back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tocsin_client import (
    Action,
    CreateAlertRule,
    DeleteAlertRule,
    ObserveMetric,
    Refused,
    SnoozeAlertRule,
    Trigger,
    UnsnoozeAlertRule,
    UpdateAlertRule,
)

from tests.client.conftest import Connect
from tests.http.gateway_server import Gateway, Worker

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
ERRORS = CreateAlertRule(
    "Errors on checkout",
    ["p1"],
    "count()",
    30,
    0,
    [Trigger("critical", 100, [Action("email", "user", 12)]), Trigger("warning", 50)],
    query="level:error",
    resolve_threshold=40,
    environment="production",
)


@pytest.fixture
def bot(connect: Connect, gateway: Gateway, busy_worker: Worker) -> Any:
    return connect(gateway.url, "dev-bot")


@pytest.fixture
def mem(connect: Connect, gateway: Gateway, busy_worker: Worker) -> Any:
    return connect(gateway.url, "dev-bot", act_as=11)


def test_a_rule_says_what_it_was_made_with(mem: Any) -> None:
    made = mem.post(ERRORS)

    assert made.status == 201
    rule = mem.read(f"alert-rules/{made.body['id']}/")
    assert (rule["query"], rule["timeWindow"], rule["resolveThreshold"], rule["environment"]) == (
        "level:error", 30, 40, "production",
    )  # fmt: skip
    critical, warning = rule["triggers"]
    assert (critical["alertThreshold"], warning["alertThreshold"]) == (100, 50)
    assert [(action["type"], action["targetIdentifier"]) for action in critical["actions"]] == [("email", "12")]


def test_values_open_and_close_the_rules_incident(mem: Any, bot: Any) -> None:
    rule = mem.post(ERRORS).body["id"]

    high = bot.post(ObserveMetric(rule, "p1", 120, NOON))
    again = bot.post(ObserveMetric(rule, "p1", 120, NOON))
    middling, nothing = bot.bulk(
        [
            ObserveMetric(rule, "p1", 60, NOON + timedelta(minutes=1)),
            ObserveMetric(rule, "p1", None, NOON + timedelta(minutes=2)),
        ],
        wait=30,
    )

    assert (high.status, high.body["fired"], high.body["incident"]["status"]) == (201, ["warning", "critical"], 20)
    assert (again.status, "ignored" in again.body) == (200, True)
    assert middling.outcome.body["resolved"] == ["critical"]
    assert (nothing.outcome.body["resolved"], nothing.outcome.body["incident"]["status"]) == (["warning"], 2)


def test_a_change_leaves_what_is_not_given(mem: Any) -> None:
    rule = mem.post(ERRORS).body["id"]

    changed = mem.post(UpdateAlertRule(rule, "count()", "level:fatal", 30, 0, [Trigger("critical", 60)]))

    assert (changed.status, changed.body["query"]) == (200, "level:fatal")
    assert [trigger["alertThreshold"] for trigger in changed.body["triggers"]] == [60]
    assert (changed.body["name"], changed.body["environment"]) == ("Errors on checkout", "production")


def test_a_rule_is_kept_silent_and_woken(mem: Any) -> None:
    rule = mem.post(ERRORS).body["id"]

    mem.post(SnoozeAlertRule(rule, "me", until=datetime.now(UTC) + timedelta(hours=1)))
    silent = mem.read(f"alert-rules/{rule}/")
    mem.post(UnsnoozeAlertRule(rule, "me"))
    awake = mem.read(f"alert-rules/{rule}/")

    assert (silent["snooze"], awake["snooze"]) == (True, False)


def test_a_deleted_rule_is_gone(mem: Any) -> None:
    rule = mem.post(ERRORS).body["id"]

    assert mem.post(DeleteAlertRule(rule)).status == 204
    with pytest.raises(Refused) as no:
        mem.read(f"alert-rules/{rule}/")

    assert no.value.status == 404
