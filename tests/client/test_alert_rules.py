"""The client creates, updates, snoozes and deletes alert rules, and sends observed values."""

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


def test_a_created_rule_has_the_fields_of_its_command(mem: Any) -> None:
    created = mem.post(ERRORS)

    assert created.status == 201
    rule = mem.read(f"alert-rules/{created.body['id']}/")
    assert (rule["query"], rule["timeWindow"], rule["resolveThreshold"], rule["environment"]) == (
        "level:error", 30, 40, "production",
    )  # fmt: skip
    critical, warning = rule["triggers"]
    assert (critical["alertThreshold"], warning["alertThreshold"]) == (100, 50)
    assert [(action["type"], action["targetIdentifier"]) for action in critical["actions"]] == [("email", "12")]


def test_observed_values_open_and_close_a_rules_incident(mem: Any, bot: Any) -> None:
    rule = mem.post(ERRORS).body["id"]

    high = bot.post(ObserveMetric(rule, "p1", 120, NOON))
    repeated = bot.post(ObserveMetric(rule, "p1", 120, NOON))
    medium, none = bot.bulk(
        [
            ObserveMetric(rule, "p1", 60, NOON + timedelta(minutes=1)),
            ObserveMetric(rule, "p1", None, NOON + timedelta(minutes=2)),
        ],
        wait=30,
    )

    assert (high.status, high.body["fired"], high.body["incident"]["status"]) == (201, ["warning", "critical"], 20)
    assert (repeated.status, "ignored" in repeated.body) == (200, True)
    assert medium.outcome.body["resolved"] == ["critical"]
    assert (none.outcome.body["resolved"], none.outcome.body["incident"]["status"]) == (["warning"], 2)


def test_an_update_keeps_optional_fields_that_are_not_set(mem: Any) -> None:
    rule = mem.post(ERRORS).body["id"]

    updated = mem.post(UpdateAlertRule(rule, "count()", "level:fatal", 30, 0, [Trigger("critical", 60)]))

    assert (updated.status, updated.body["query"]) == (200, "level:fatal")
    assert [trigger["alertThreshold"] for trigger in updated.body["triggers"]] == [60]
    assert (updated.body["name"], updated.body["environment"]) == ("Errors on checkout", "production")


def test_a_rule_can_be_snoozed_and_unsnoozed(mem: Any) -> None:
    rule = mem.post(ERRORS).body["id"]

    mem.post(SnoozeAlertRule(rule, "me", until=datetime.now(UTC) + timedelta(hours=1)))
    snoozed = mem.read(f"alert-rules/{rule}/")
    mem.post(UnsnoozeAlertRule(rule, "me"))
    unsnoozed = mem.read(f"alert-rules/{rule}/")

    assert (snoozed["snooze"], unsnoozed["snooze"]) == (True, False)


def test_a_deleted_rule_no_longer_exists(mem: Any) -> None:
    rule = mem.post(ERRORS).body["id"]

    assert mem.post(DeleteAlertRule(rule)).status == 204
    with pytest.raises(Refused) as refused:
        mem.read(f"alert-rules/{rule}/")

    assert refused.value.status == 404
