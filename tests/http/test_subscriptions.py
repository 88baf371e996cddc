"""The subscribers of an incident over HTTP."""

from __future__ import annotations

from sqlalchemy.engine import Engine

from tests.http.gateway_server import ACME, COMMENTS, Gateway, Worker


def test_subscribers_are_listed_with_their_reason(gateway: Gateway, busy_worker: Worker) -> None:
    gateway.post(COMMENTS, {"comment": "x", "mentions": ["ana"]})

    found = gateway.get(f"{ACME}/incidents/1/subscribers/").json()

    assert [(each["user"]["username"], each["reason"]) for each in found] == [("mem", "commented"), ("ana", "mention")]


def test_people_who_lost_access_are_not_listed_as_subscribers(
    gateway: Gateway, busy_worker: Worker, ledger: Engine
) -> None:
    gateway.post(COMMENTS, {"comment": "x", "mentions": ["ana"]})

    with ledger.begin() as connection:
        connection.exec_driver_sql("DELETE FROM members WHERE user_id = 12")

    found = gateway.get(f"{ACME}/incidents/1/subscribers/").json()
    assert [each["user"]["username"] for each in found] == ["mem"]
