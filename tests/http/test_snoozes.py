"""Snoozes of an alert rule over HTTP."""

from __future__ import annotations

import httpx
import pytest
from sqlalchemy.engine import Engine

from models.enums import JSON
from tests.handlers.acme import Acme
from tests.http.alert_rule_requests import FORBIDDEN, MISSING, REQUIRED, RULES, TWIN, accepted, ask, made, seed
from tests.http.gateway_server import Gateway, Worker
from tests.rule_bodies import RULE

PROJECT = "/api/0/projects"


NO_MOMENT = (
    "Datetime has wrong format. Use one of these formats instead: YYYY-MM-DDThh:mm[:ss[.uuuuuu]][+HH:MM|-HH:MM|Z]."
)


def silence(
    gateway: Gateway, path: str, body: JSON = None, method: str = "POST", by: str = "dev-mem"
) -> httpx.Response:
    return ask(gateway, method, path, by=by, **({} if body is None else {"json": body}))


def test_a_rule_is_snoozed_once_and_unsnoozed_once(gateway: Gateway, busy_worker: Worker) -> None:
    path = f"{TWIN}{made(gateway)['id']}/snooze/"

    first, second = (silence(gateway, path, {"target": "everyone", "until": "2036-01-01T00:00:00"}) for _ in range(2))
    ended, again = silence(gateway, path, method="DELETE"), silence(gateway, path, method="DELETE")

    assert (first.status_code, first.json()["until"]) == (201, "2036-01-01T00:00:00Z")
    assert (second.status_code, second.json()) == (
        410,
        {"detail": "RuleSnooze already exists for this rule and scope."},
    )
    assert (ended.status_code, ended.content) == (204, b"")
    assert (again.status_code, again.json()) == (404, MISSING)


def test_only_the_named_snooze_ends(gateway: Gateway, busy_worker: Worker) -> None:
    path = f"{TWIN}{made(gateway)['id']}/snooze/"
    for target in ("me", "everyone"):
        silence(gateway, path, {"target": target})

    statuses = [silence(gateway, path, {"target": "me"}, "DELETE").status_code for _ in range(2)]

    assert statuses == [204, 404]
    assert silence(gateway, path, {"target": "everyone"}).status_code == 410


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({}, {"target": REQUIRED}),
        ({"target": None}, {"target": ["This field may not be null."]}),
        ({"target": "them"}, {"target": ['"them" is not a valid choice.']}),
        ({"target": "me", "until": "tomorrow"}, {"until": [NO_MOMENT]}),
        ([], {"nonFieldErrors": ["Invalid data. Expected a dictionary, but got list."]}),
    ],
)  # fmt: skip
def test_an_invalid_snooze_is_400_and_creates_no_command(
    gateway: Gateway, ledger: Engine, acme: Acme, body: JSON, wrong: JSON
) -> None:
    answered = silence(gateway, f"{TWIN}{seed(ledger, acme)}/snooze/", body)

    assert (answered.status_code, answered.json()) == (400, wrong)
    assert accepted(ledger) == 0


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_an_unknown_rule_cannot_be_snoozed(
    gateway: Gateway, busy_worker: Worker, ledger: Engine, acme: Acme, method: str
) -> None:
    elsewhere = seed(ledger, acme, "p2")
    body = {"target": "me"}

    for rule in ("99999", "abc", "²", str(elsewhere)):
        answered = silence(gateway, f"{TWIN}{rule}/snooze/", body, method)
        assert (answered.status_code, answered.json()) == (400, ["Rule does not exist"])
    assert silence(gateway, f"{PROJECT}/acme/nowhere/alert-rules/1/snooze/", body, method).status_code == 404
    assert silence(gateway, f"{PROJECT}/plain/n1/alert-rules/1/snooze/", body, method).status_code == 404
    assert silence(gateway, f"{PROJECT}/closed/c1/alert-rules/1/snooze/", body, method).json() == FORBIDDEN
    assert silence(gateway, f"{TWIN}1/snooze/", body, method, by="dev-key").status_code == 403


def test_an_updated_rule_reports_its_snooze(gateway: Gateway, busy_worker: Worker) -> None:
    rule = made(gateway)["id"]
    silence(gateway, f"{TWIN}{rule}/snooze/", {"target": "everyone"})

    assert ask(gateway, "PUT", f"{RULES}{rule}/", json=RULE).json()["snooze"] is True
