"""Alert rule bodies over HTTP: accepted notations, and refusals before acceptance."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy.engine import Engine

from tests.http.alert_rule_requests import (
    PROJECT_RULES,
    RULES,
    accepted_count,
    create_rule,
)
from tests.http.gateway_server import COMMANDS, Gateway, Worker
from tests.http.invalid_alert_rules import an_action, invalid_bodies
from tests.rule_bodies import CRITICAL, RULE, WARNING


def test_a_rule_can_be_created_with_snake_case_field_names(gateway: Gateway, busy_worker: Worker) -> None:
    snake = {
        "name": "Errors on checkout", "aggregate": "count()", "query": "", "time_window": "10", "threshold_type": 0.0,
        "threshold_period": 2, "resolve_threshold": "20", "event_types": ["default"], "projects": ["p1"],
        "triggers": [
            {"label": "critical", "alert_threshold": "100.5", "unknown": "\0", "actions": [
                {"type": "email", "target_type": "team", "target_identifier": 21}]}
        ],
        "unknown": "\0",
    }  # fmt: skip

    response = gateway.post(RULES, snake)

    shown = response.json()
    assert response.status_code == 201
    assert (shown["timeWindow"], shown["thresholdPeriod"], shown["resolveThreshold"]) == (10.0, 2, 20.0)
    assert shown["triggers"][0]["alertThreshold"] == 100.5
    assert shown["triggers"][0]["actions"][0]["targetIdentifier"] == "21"
    details = gateway.get(f"{RULES}{shown['id']}/").json()
    assert details == shown | {"excludedProjects": [], "eventTypes": ["default"], "snooze": False}


def test_an_invalid_rule_is_400_and_creates_no_command(gateway: Gateway, ledger: Engine) -> None:
    responses = []
    with gateway.client(Content_Type="application/json") as client:
        for body, _ in invalid_bodies():
            response = client.post(RULES, content=json.dumps(body).encode())
            responses.append((response.status_code, response.json()))

    assert responses == [(400, errors) for _, errors in invalid_bodies()]
    assert accepted_count(ledger) == 0


VALID_THRESHOLDS: list[dict[str, Any]] = [
    {"resolveThreshold": 101},
    {"resolveThreshold": 100, "triggers": [CRITICAL | {"alertThreshold": 100.5}]},
    {"resolveThreshold": 100.5, "triggers": [CRITICAL | {"alertThreshold": 100.5}]},
    {"thresholdType": 1, "resolveThreshold": 99},
    {"triggers": [CRITICAL, WARNING | {"alertThreshold": 100}]},
    {"thresholdType": 1, "comparisonDelta": 60, "triggers": [CRITICAL, WARNING]},
    {"aggregate": "percentage(sessions_crashed, sessions) AS _crash_rate_alert_aggregate"},
    {"query": ""},
]


def test_thresholds_that_do_not_overlap_are_valid(gateway: Gateway, busy_worker: Worker) -> None:
    assert [gateway.post(RULES, RULE | fields).status_code for fields in VALID_THRESHOLDS] == [201] * len(
        VALID_THRESHOLDS
    )


def test_the_user_tag_in_an_aggregate_is_returned_by_its_short_name(gateway: Gateway, busy_worker: Worker) -> None:
    assert create_rule(gateway, aggregate="count_unique(tags[sentry:user])")["aggregate"] == "count_unique(user)"


def test_a_rule_with_an_unknown_target_is_refused_by_the_worker_with_a_list_as_the_body(
    gateway: Gateway, busy_worker: Worker
) -> None:
    triggers = [CRITICAL | {"actions": [an_action(targetType="user", targetIdentifier=14)]}]

    response = gateway.post(RULES, RULE | {"triggers": triggers})
    problem = gateway.post(RULES, RULE | {"triggers": triggers}, Accept="application/problem+json").json()

    assert (response.status_code, response.json()) == (400, ["User does not belong to this organization"])
    assert response.headers["command-id"]
    assert problem["errors"] == [{"pointer": "#", "detail": "User does not belong to this organization"}]


def test_the_project_in_the_path_overrides_the_one_in_the_body(gateway: Gateway, busy_worker: Worker) -> None:
    response = gateway.post(PROJECT_RULES, RULE | {"projects": ["p2"], "inProject": "p2", "in_project": "p2"})

    assert (response.status_code, response.json()["projects"]) == (201, ["p1"])


def test_a_body_cannot_set_the_internal_field_for_the_project_in_the_path(
    gateway: Gateway, busy_worker: Worker
) -> None:
    path_fields = {"inProject": "p2", "in_project": "p2"}

    response = gateway.post(RULES, RULE | path_fields)
    item = {"type": "alert_rule.create", **RULE, **path_fields}
    listed = gateway.post(COMMANDS, {"commands": [item]})

    assert response.json()["projects"] == ["p1"]
    assert listed.json() == {"commands": {"0": {name: ["Unknown field."] for name in path_fields}}}
