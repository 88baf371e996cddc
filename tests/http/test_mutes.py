"""Muting an incident over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.engine import Engine

from models.directory.tables import organizations, projects
from tests.handlers.acme import Acme
from tests.http.gateway_server import ACME, Gateway, Worker

MUTE = f"{ACME}/incidents/1/mute/"
LATER = "2999-01-01T00:00:00Z"


def mutes(ledger: Engine) -> list[tuple[int, Any]]:
    with ledger.connect() as connection:
        rows = connection.exec_driver_sql("SELECT user_id, until FROM incident_mutes ORDER BY user_id")
        return [(row.user_id, row.until and row.until.isoformat()) for row in rows]


def test_an_incident_is_muted_and_unmuted(gateway: Gateway, busy_worker: Worker, ledger: Engine) -> None:
    muted = gateway.post(MUTE, {})
    assert mutes(ledger) == [(11, None)]
    unmuted = gateway.delete(MUTE)

    assert (muted.status_code, muted.json()) == (201, {"until": None})
    assert (unmuted.status_code, unmuted.content) == (204, b"")
    assert mutes(ledger) == []


def test_a_mute_may_end_at_a_time(gateway: Gateway, busy_worker: Worker, ledger: Engine) -> None:
    response = gateway.post(MUTE, {"until": LATER})

    assert (response.status_code, response.json()) == (201, {"until": LATER})
    assert mutes(ledger) == [(11, "2999-01-01T00:00:00+00:00")]


def test_muting_again_changes_the_end(gateway: Gateway, busy_worker: Worker, ledger: Engine) -> None:
    gateway.post(MUTE, {"until": LATER})

    again = gateway.post(MUTE, {})

    assert (again.status_code, again.json()) == (200, {"until": None})
    assert mutes(ledger) == [(11, None)]


def test_a_mute_that_has_ended_counts_as_none(gateway: Gateway, busy_worker: Worker, ledger: Engine) -> None:
    gateway.post(MUTE, {})
    with ledger.begin() as connection:
        connection.exec_driver_sql("UPDATE incident_mutes SET until = now() - interval '1 minute'")

    assert gateway.post(MUTE, {}).status_code == 201


def test_muting_concerns_the_caller_alone(gateway: Gateway, busy_worker: Worker, ledger: Engine) -> None:
    gateway.post(MUTE, {})
    gateway.post(MUTE, {"until": LATER}, by="dev-ana")

    gateway.delete(MUTE)

    assert [user for user, _ in mutes(ledger)] == [12]


def test_unmuting_what_is_not_muted_succeeds(gateway: Gateway, busy_worker: Worker) -> None:
    assert gateway.delete(MUTE).status_code == 204


@pytest.mark.parametrize(
    ("until", "error"),
    [
        ("2020-01-01T00:00:00Z", "This time is in the past."),
        ("tomorrow", "Datetime has wrong format."),
    ],
)
def test_an_invalid_end_is_refused(gateway: Gateway, until: str, error: str) -> None:
    response = gateway.post(MUTE, {"until": until})

    assert response.status_code == 400
    assert response.json()["until"][0].startswith(error)


def test_only_readers_of_the_incident_may_mute_it(
    gateway: Gateway, busy_worker: Worker, acme: Acme, ledger: Engine
) -> None:
    assert gateway.post(f"{ACME}/incidents/9/mute/", {}).status_code == 404
    assert gateway.post(MUTE, {}, by="dev-out").status_code == 403
    with ledger.begin() as connection:
        connection.execute(update(projects).values(status="inactive"))
        connection.execute(update(organizations).values(open_membership=False))

    assert gateway.post(MUTE, {}).status_code == 403
    assert gateway.delete(MUTE).status_code == 403


@pytest.mark.parametrize("token", ["dev-key", "dev-bot"])
def test_only_people_mute(gateway: Gateway, busy_worker: Worker, token: str) -> None:
    assert gateway.post(MUTE, {}, by=token).status_code == 403


def test_mutes_of_one_person_in_one_request_are_applied_in_order(
    gateway: Gateway, busy_worker: Worker, ledger: Engine
) -> None:
    commands = [
        {"type": "incident.mute", "incident": "1"},
        {"type": "incident.unmute", "incident": "1"},
        {"type": "incident.mute", "incident": "1", "until": LATER},
    ]

    response = gateway.post(f"{ACME}/commands/", {"commands": commands}, Prefer="wait=10")

    assert [each["outcome"]["status"] for each in response.json()["commands"]] == [201, 204, 201]
    assert mutes(ledger) == [(11, "2999-01-01T00:00:00+00:00")]
