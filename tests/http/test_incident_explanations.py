"""Why people were, or were not, notified of an incident, over HTTP: who may ask, and what they learn."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.engine import Engine
from tocsin_client import Tocsin

from tasks.events import AUDIENCE_EVENTS
from tests.delivery.conftest import plan_everything
from tests.handlers.acme import Acme
from tests.http.alert_rule_requests import FORBIDDEN, NOT_FOUND
from tests.http.gateway_server import ACME, COMMENTS, Gateway, Worker
from tests.http.test_refusal_reasons import close_membership
from workers.notify.audience import AUDIENCES

EXPLAIN = f"{ACME}/incidents/1/explain/"


@pytest.fixture
def planned(gateway: Gateway, ledger: Engine, busy_worker: Worker) -> list[str]:
    """The ids of two planned comments by Mem, of which only the second one mentions somebody: Ana."""
    ids = []
    for mentions in ([], ["user:12"]):
        ids.append(gateway.post(COMMENTS, {"comment": "Hm.", "mentions": mentions}).json()["id"])
        # A mention also subscribes, so the next comment must not be planned yet.
        plan_everything(ledger)
    return ids


def rules(gateway: Gateway, query: str = "", *, by: str = "dev-ana", **headers: str) -> list[tuple[str, str, str]]:
    """Return activity, outcome and rule of each decision."""
    response = gateway.get(EXPLAIN + query, by=by, **headers)
    assert response.status_code == 200, response.text
    return [(each["activity"], each["outcome"], each["rule"]) for each in response.json()["decisions"]]


def test_a_person_learns_why_they_were_and_were_not_notified_newest_first(gateway: Gateway, planned: list[str]) -> None:
    first, second = planned

    assert rules(gateway) == [
        (second, "pending", "instant"), (second, "delivered", "mention"), (first, "suppressed", "not_subscribed"),
    ]  # fmt: skip
    assert rules(gateway, "?user=12") == rules(gateway)


def test_a_decision_has_all_documented_fields(gateway: Gateway, planned: list[str]) -> None:
    by_email, newest, oldest = gateway.get(EXPLAIN, by="dev-ana").json()["decisions"]

    assert (by_email["channel"], by_email["outcome"]) == ("email", "pending")
    assert newest["at"] is not None
    assert newest | {"at": "", "event": ""} == {
        "activity": planned[1], "event": "", "channel": "inbox", "outcome": "delivered", "rule": "mention",
        "detail": "", "explanation": "Notified in the inbox: the comment mentions this person.", "at": "",
    }  # fmt: skip
    assert (oldest["at"], oldest["rule"]) == (None, "not_subscribed")


def test_an_owner_may_ask_for_anyone(gateway: Gateway, planned: list[str]) -> None:
    first, second = planned

    assert rules(gateway, "?user=11", by="dev-own") == [
        (second, "suppressed", "author"), (first, "suppressed", "author"),
    ]  # fmt: skip
    assert [rule for *_, rule in rules(gateway, "?user=13", by="dev-own")] == ["not_subscribed"] * 2


def test_a_program_that_acts_for_an_owner_may_ask_for_anyone(gateway: Gateway, planned: list[str]) -> None:
    assert len(rules(gateway, "?user=12", by="dev-bot", Act_As="user:15")) == 3


@pytest.mark.parametrize(("by", "query"), [("dev-mem", "?user=12"), ("dev-ben", "?user=12"), ("dev-bot", "?user=12"),
                                           ("dev-key", "?user=12"), ("dev-bot", ""), ("dev-key", "")])  # fmt: skip
def test_nobody_else_may_ask_for_another_person(gateway: Gateway, acme: Acme, by: str, query: str) -> None:
    response = gateway.get(EXPLAIN + query, by=by)

    assert (response.status_code, response.json()) == (403, FORBIDDEN)


@pytest.mark.parametrize("user", ["14", "999", "0", "9" * 18])
def test_a_person_outside_the_organization_is_unknown(gateway: Gateway, planned: list[str], user: str) -> None:
    response = gateway.get(f"{EXPLAIN}?user={user}", by="dev-own")

    assert (response.status_code, response.json()) == (404, NOT_FOUND)


def test_a_former_member_about_whom_decisions_are_recorded_can_be_explained(
    gateway: Gateway, ledger: Engine, planned: list[str]
) -> None:
    with ledger.begin() as connection:
        connection.exec_driver_sql("DELETE FROM team_members; DELETE FROM members WHERE user_id = 12")

    found: Any = rules(gateway, "?user=12", by="dev-own")

    assert found == [
        (planned[1], "pending", "instant"), (planned[1], "delivered", "mention"),
        (planned[0], "suppressed", "no_access"),
    ]  # fmt: skip


def test_a_user_that_is_no_number_is_refused(gateway: Gateway) -> None:
    response = gateway.get(f"{EXPLAIN}?user=ana", by="dev-own")

    assert (response.status_code, response.json()) == (400, {"user": ["A valid integer is required."]})


def test_an_incident_out_of_reach_cannot_be_explained(gateway: Gateway, ledger: Engine) -> None:
    unknown = gateway.get(f"{ACME}/incidents/99/explain/")
    close_membership(ledger)
    hidden = gateway.get(EXPLAIN)

    assert (unknown.status_code, hidden.status_code) == (404, 403)


def test_the_client_reads_explanations(gateway: Gateway, planned: list[str]) -> None:
    with Tocsin(gateway.url, "dev-own", organization="acme") as own:
        about_ana, about_me = own.explain_incident(1, user=12), own.explain_incident("1")

    assert [each.rule for each in about_ana] == ["instant", "mention", "not_subscribed"]
    assert [each.rule for each in about_me] == ["not_subscribed", "not_subscribed"]


def test_the_events_with_an_audience_are_those_of_the_notifier() -> None:
    assert {event.type for event in AUDIENCE_EVENTS} == {type_ for type_, sources in AUDIENCES.items() if sources}
