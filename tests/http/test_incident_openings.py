"""Opening incidents over HTTP: who may set a deduplication key, and when an incident may have started."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.engine import Engine

from tests.http.alert_rule_requests import accepted_count
from tests.http.gateway_server import ACME, COMMANDS, Gateway, Worker

INCIDENTS = f"{ACME}/incidents/"
OPENING: dict[str, Any] = {"title": "Disk full", "projects": ["p1"]}
ONLY_FOR_SERVICES = {"dedupKey": ["Only services may set a key."]}


@pytest.mark.parametrize("by", ["dev-own", "dev-ben"])
def test_a_person_cannot_set_a_dedup_key(gateway: Gateway, ledger: Engine, by: str) -> None:
    item = {"type": "incident.open", **OPENING, "dedupKey": "disk"}

    alone = gateway.post(INCIDENTS, OPENING | {"dedupKey": "disk"}, by=by)
    in_bulk = gateway.post(COMMANDS, {"commands": [item]}, by=by)

    assert (alone.status_code, alone.json()) == (400, ONLY_FOR_SERVICES)
    assert (in_bulk.status_code, in_bulk.json()) == (400, {"commands": {"0": ONLY_FOR_SERVICES}})
    assert accepted_count(ledger) == 0


@pytest.mark.parametrize("headers", [{}, {"Act_As": "user:15"}], ids=["as itself", "for a member"])
def test_a_service_can_set_a_dedup_key(gateway: Gateway, busy_worker: Worker, headers: dict[str, str]) -> None:
    first, second = (gateway.post(INCIDENTS, OPENING | {"dedupKey": "disk"}, by="dev-bot", **headers) for _ in range(2))

    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json()["id"] == second.json()["id"]


def test_a_null_dedup_key_counts_as_none(gateway: Gateway, busy_worker: Worker) -> None:
    assert gateway.post(INCIDENTS, OPENING | {"dedupKey": None}, by="dev-own").status_code == 201


def test_an_incident_cannot_start_in_the_future(gateway: Gateway, ledger: Engine) -> None:
    started = (datetime.now(UTC) + timedelta(minutes=11)).isoformat()
    errors = {"dateStarted": ["This time is more than 10 minutes in the future."]}

    response = gateway.post(INCIDENTS, OPENING | {"dateStarted": started}, by="dev-own")
    with_key = gateway.post(INCIDENTS, OPENING | {"dateStarted": started, "dedupKey": "disk"}, by="dev-own")

    assert (response.status_code, response.json()) == (400, errors)
    assert (with_key.status_code, with_key.json()) == (400, errors | ONLY_FOR_SERVICES)
    assert accepted_count(ledger) == 0


def test_the_callers_clock_may_be_ahead_by_a_few_minutes(gateway: Gateway, busy_worker: Worker) -> None:
    started = (datetime.now(UTC) + timedelta(minutes=9)).isoformat()

    assert gateway.post(INCIDENTS, OPENING | {"dateStarted": started}, by="dev-own").status_code == 201
