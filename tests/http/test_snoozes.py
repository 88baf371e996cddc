"""Snoozes of an alert rule over HTTP."""

from __future__ import annotations

import httpx
import pytest
from sqlalchemy.engine import Engine

from models.types import JSON
from tests.handlers.acme import Acme
from tests.http.alert_rule_requests import (
    FORBIDDEN,
    NOT_FOUND,
    PROJECT_RULES,
    REQUIRED,
    RULES,
    accepted_count,
    create_rule,
    insert_rule,
    send,
)
from tests.http.gateway_server import Gateway, Worker
from tests.rule_bodies import RULE

PROJECTS = "/api/0/projects"


INVALID_DATETIME = (
    "Datetime has wrong format. Use one of these formats instead: YYYY-MM-DDThh:mm[:ss[.uuuuuu]][+HH:MM|-HH:MM|Z]."
)


def send_snooze(
    gateway: Gateway, path: str, body: JSON = None, method: str = "POST", by: str = "dev-mem"
) -> httpx.Response:
    return send(gateway, method, path, by=by, **({} if body is None else {"json": body}))


def test_a_rule_can_be_neither_snoozed_twice_nor_unsnoozed_twice(gateway: Gateway, busy_worker: Worker) -> None:
    path = f"{PROJECT_RULES}{create_rule(gateway)['id']}/snooze/"

    first, second = (
        send_snooze(gateway, path, {"target": "everyone", "until": "2036-01-01T00:00:00"}) for _ in range(2)
    )
    ended, again = send_snooze(gateway, path, method="DELETE"), send_snooze(gateway, path, method="DELETE")

    assert (first.status_code, first.json()["until"]) == (201, "2036-01-01T00:00:00Z")
    assert (second.status_code, second.json()) == (
        410,
        {"detail": "RuleSnooze already exists for this rule and scope."},
    )
    assert (ended.status_code, ended.content) == (204, b"")
    assert (again.status_code, again.json()) == (404, NOT_FOUND)


def test_unsnoozing_ends_only_the_snooze_of_the_named_target(gateway: Gateway, busy_worker: Worker) -> None:
    path = f"{PROJECT_RULES}{create_rule(gateway)['id']}/snooze/"
    for target in ("me", "everyone"):
        send_snooze(gateway, path, {"target": target})

    statuses = [send_snooze(gateway, path, {"target": "me"}, "DELETE").status_code for _ in range(2)]

    assert statuses == [204, 404]
    assert send_snooze(gateway, path, {"target": "everyone"}).status_code == 410


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        ({}, {"target": REQUIRED}),
        ({"target": None}, {"target": ["This field may not be null."]}),
        ({"target": "them"}, {"target": ['"them" is not a valid choice.']}),
        ({"target": "me", "until": "tomorrow"}, {"until": [INVALID_DATETIME]}),
        ({"target": "me", "until": "2026-11-01T00:00:00Z"}, {"until": ["This time is in the past."]}),
        ([], {"nonFieldErrors": ["Invalid data. Expected a dictionary, but got list."]}),
    ],
)  # fmt: skip
def test_an_invalid_snooze_is_400_and_creates_no_command(
    gateway: Gateway, ledger: Engine, acme: Acme, body: JSON, errors: JSON
) -> None:
    response = send_snooze(gateway, f"{PROJECT_RULES}{insert_rule(ledger, acme)}/snooze/", body)

    assert (response.status_code, response.json()) == (400, errors)
    assert accepted_count(ledger) == 0


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_an_unknown_rule_cannot_be_snoozed(
    gateway: Gateway, busy_worker: Worker, ledger: Engine, acme: Acme, method: str
) -> None:
    of_other_project = insert_rule(ledger, acme, "p2")
    body = {"target": "me"}

    for rule in ("99999", "abc", "²", str(of_other_project)):
        response = send_snooze(gateway, f"{PROJECT_RULES}{rule}/snooze/", body, method)
        assert (response.status_code, response.json()) == (400, ["Rule does not exist"])
    assert send_snooze(gateway, f"{PROJECTS}/acme/nowhere/alert-rules/1/snooze/", body, method).status_code == 404
    assert send_snooze(gateway, f"{PROJECTS}/plain/n1/alert-rules/1/snooze/", body, method).status_code == 404
    assert send_snooze(gateway, f"{PROJECTS}/closed/c1/alert-rules/1/snooze/", body, method).json() == FORBIDDEN
    assert send_snooze(gateway, f"{PROJECT_RULES}1/snooze/", body, method, by="dev-key").status_code == 403


def test_an_updated_rule_reports_its_snooze(gateway: Gateway, busy_worker: Worker) -> None:
    rule = create_rule(gateway)["id"]
    send_snooze(gateway, f"{PROJECT_RULES}{rule}/snooze/", {"target": "everyone"})

    assert send(gateway, "PUT", f"{RULES}{rule}/", json=RULE).json()["snooze"] is True
