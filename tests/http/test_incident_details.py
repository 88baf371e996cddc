"""The details of an incident: addressing, permissions, fields, and activities."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.engine import Engine

from tests.handlers.acme import Acme
from tests.http.gateway_server import A_COMMENT, ACME, COMMENTS, Gateway, Worker

INCIDENT = f"{ACME}/incidents/1/"
NOT_FOUND = {"detail": "The requested resource does not exist"}
FORBIDDEN = {"detail": "You do not have permission to perform this action."}


def execute(ledger: Engine, *statements: str) -> None:
    with ledger.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def test_an_incident_is_identified_by_its_number_in_the_organization_and_not_by_its_id(
    gateway: Gateway, ledger: Engine
) -> None:
    execute(ledger, "UPDATE incidents SET identifier = 1000 + id")
    number = f"{ACME}/incidents/{{}}/"
    with ledger.connect() as connection:
        ids = list(connection.execute(text("SELECT id FROM incidents ORDER BY id")).scalars())

    by_number = [gateway.get(number.format(1000 + id_)).status_code for id_ in ids]
    by_id = [gateway.get(number.format(id_)) for id_ in ids]

    # The other incidents belong to other organizations.
    assert by_number == [200, 404, 404]
    assert [(response.status_code, response.json()) for response in by_id] == [(404, NOT_FOUND)] * 3


@pytest.mark.parametrize("status", [1, 2, 10, 20])
def test_an_incident_can_be_read_in_any_status(gateway: Gateway, ledger: Engine, status: int) -> None:
    execute(ledger, f"UPDATE incidents SET status = {status}")

    response = gateway.get(INCIDENT)

    assert (response.status_code, response.json()["status"]) == (200, status)


def test_reading_an_incident_neither_marks_it_as_seen_nor_subscribes_the_caller(gateway: Gateway) -> None:
    first, second = gateway.get(INCIDENT), gateway.get(INCIDENT)

    assert (first.json()["hasSeen"], first.json()["seenBy"], first.json()["isSubscribed"]) == (False, [], False)
    assert second.json() == first.json()


def test_an_incident_has_sentrys_fields_and_a_version(gateway: Gateway, acme: Acme) -> None:
    body = gateway.get(INCIDENT).json()

    assert set(body) == {
        "id", "identifier", "organizationId", "projects", "alertRule", "activities", "seenBy", "hasSeen", "status",
        "statusMethod", "type", "title", "dateStarted", "dateDetected", "dateCreated", "dateClosed",
        "isSubscribed", "discoverQuery", "version",
    }  # fmt: skip
    assert (body["identifier"], body["organizationId"]) == ("1", str(acme.organizations["acme"]))
    assert (body["projects"], body["activities"]) == (["p1"], None)
    assert (body["alertRule"], body["discoverQuery"]) == (None, "")


def test_seen_by_lists_the_most_recent_view_first(gateway: Gateway, ledger: Engine) -> None:
    for user, hour in ((11, 9), (13, 11), (12, 10)):
        execute(
            ledger,
            f"INSERT INTO incident_seen SELECT i.id, {user}, '2026-01-01 {hour}:00Z' FROM incidents i"
            " JOIN organizations o ON o.id = i.organization_id WHERE o.slug = 'acme'",
        )

    seen = gateway.get(INCIDENT).json()["seenBy"]

    assert [(each["username"], each["lastSeen"]) for each in seen] == [
        ("ben", "2026-01-01T11:00:00Z"), ("ana", "2026-01-01T10:00:00Z"), ("mem", "2026-01-01T09:00:00Z"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "lost",
    ["UPDATE projects SET status = 'inactive'", "DELETE FROM incident_projects"],
    ids=["inactive project", "no project"],
)
@pytest.mark.parametrize("by", ["dev-mem", "dev-own", "dev-key", "dev-bot"])
def test_an_incident_without_an_active_project_is_forbidden_to_everyone(
    gateway: Gateway, ledger: Engine, by: str, lost: str
) -> None:
    execute(ledger, lost)

    response = gateway.get(INCIDENT, by=by)

    assert (response.status_code, response.json()) == (403, FORBIDDEN)


def test_an_activity_has_sentrys_fields_and_a_version(gateway: Gateway, busy_worker: Worker) -> None:
    posted = gateway.post(COMMENTS, A_COMMENT).json()

    assert set(posted) == {
        "id", "incidentIdentifier", "user", "type", "value", "previousValue", "comment", "dateCreated", "version",
    }  # fmt: skip
    assert (posted["user"]["id"], posted["type"], posted["value"], posted["previousValue"]) == ("11", 3, None, None)
    assert gateway.get(f"{INCIDENT}activity/").json() == [posted]


def test_the_closing_date_is_truncated_to_the_minute(gateway: Gateway, ledger: Engine, busy_worker: Worker) -> None:
    execute(ledger, "UPDATE incidents SET status = 2, date_closed = '2026-01-02T03:04:59.999999Z'")

    assert gateway.get(INCIDENT).json()["dateClosed"] == "2026-01-02T03:04:00Z"


# --- activities --------------------------------------------------------------------------------------------------

ADD_ACTIVITIES = """
    INSERT INTO incident_activities (incident_id, type, date_added, notification_uuid)
    SELECT i.id, {kind}, now(), gen_random_uuid() FROM incidents i
    JOIN organizations o ON o.id = i.organization_id, generate_series(1, {count}) WHERE o.slug = 'acme'
"""


def test_activities_of_every_type_are_listed(gateway: Gateway, ledger: Engine) -> None:
    execute(ledger, *(ADD_ACTIVITIES.format(kind=kind, count=1) for kind in (4, 1, 3, 2)))

    oldest_first = gateway.get(f"{INCIDENT}activity/?desc=0").json()

    assert [each["type"] for each in oldest_first] == [4, 1, 3, 2]


def test_a_page_holds_at_most_a_hundred_activities(gateway: Gateway, ledger: Engine) -> None:
    execute(ledger, ADD_ACTIVITIES.format(kind=3, count=101))

    response = gateway.get(f"{INCIDENT}activity/")

    assert len(response.json()) == 100
    assert 'rel="next"; results="true"' in response.headers["link"]
