"""The handler that opens incidents."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from sqlalchemy import select

from models.incidents.activity import activities
from tasks.commands.incidents import OpenIncident
from tests.handlers.acme import Acme
from tests.harness import Harness


def an_open_command(**fields: object) -> OpenIncident:
    return OpenIncident.model_validate({"title": "Disk full", "projects": ["p1"]} | fields)


def test_an_incident_gets_the_next_number_of_its_organization(harness: Harness, acme: Acme) -> None:
    first = harness.execute(an_open_command(), **acme.by_service())
    second = harness.execute(an_open_command(), **acme.by("ben"))

    assert [(status, body["identifier"]) for status, body in (first, second)] == [(201, "2"), (201, "3")]


def test_opening_returns_the_incident_as_requested(harness: Harness, acme: Acme) -> None:
    _, body = harness.execute(
        an_open_command(status="20", dateStarted="2026-01-02T03:04:05Z", projects=["p2", "p1"]), **acme.by("own")
    )

    assert (body["title"], body["status"], body["type"], body["projects"]) == ("Disk full", 20, 0, ["p1", "p2"])
    assert (body["dateStarted"], body["dateDetected"]) == ("2026-01-02T03:04:05Z",) * 2
    assert (body["alertRule"], body["discoverQuery"], body["version"]) == (None, "", 1)
    assert (body["seenBy"], body["hasSeen"], body["isSubscribed"]) == ([], False, False)


def test_opening_records_exactly_the_activities_detected_and_created(harness: Harness, acme: Acme) -> None:
    _, body = harness.execute(an_open_command(dateStarted="2026-01-02T03:04:05Z"), **acme.by("own"))

    with harness.engine.connect() as connection:
        kinds = connection.execute(
            select(activities.c.type).where(activities.c.incident_id == int(body["id"])).order_by(activities.c.id)
        ).scalars()
        assert list(kinds) == [4, 1]


def test_an_open_incident_with_the_same_dedup_key_is_returned_instead_of_a_new_one(
    harness: Harness, acme: Acme
) -> None:
    ids = [harness.accept(an_open_command(dedupKey="disk"), **acme.by_service()) for _ in range(3)]

    harness.apply()

    rows = [harness.ledger_row(id_) for id_ in ids]
    assert [row["outcome_status"] for row in rows] == [201, 200, 200]
    assert len({row["outcome_body"]["id"] for row in rows}) == 1


@pytest.mark.parametrize(
    ("fields", "errors"),
    [
        ({"projects": ["p1", "nowhere"]}, {"projects": ["Invalid project"]}),
        ({"projects": ["old"]}, {"projects": ["Invalid project"]}),
        ({"projects": ["c1"]}, {"projects": ["Invalid project"]}),
        ({"alertRule": 5}, {"alertRule": ["Invalid alert rule"]}),
    ],
)
def test_opening_an_incident_that_refers_to_something_missing_is_refused(
    harness: Harness, acme: Acme, fields: dict[str, object], errors: object
) -> None:
    before = harness.row_counts()

    outcome = harness.execute(an_open_command(**fields), **acme.by("own"))

    assert outcome == (400, errors)
    assert harness.row_counts() == before


def test_a_member_without_write_scope_may_not_open_an_incident(harness: Harness, acme: Acme) -> None:
    before = harness.row_counts()

    status, _ = harness.execute(an_open_command(), **acme.by("mem"))

    assert status == 403
    assert harness.row_counts() == before


def test_an_organizations_incidents_are_numbered_from_1(harness: Harness, acme: Acme) -> None:
    with harness.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM incidents")
    ids = [harness.accept(an_open_command(), **acme.by_service()) for _ in range(3)]

    harness.apply()

    assert [harness.ledger_row(id_)["outcome_body"]["identifier"] for id_ in ids] == ["1", "2", "3"]


def test_a_new_incident_has_the_type_detected(harness: Harness, acme: Acme) -> None:
    _, body = harness.execute(an_open_command(), **acme.by_service())

    assert (body["status"], body["statusMethod"], body["type"], body["dateClosed"]) == (1, 3, 0, None)
    assert body["dateDetected"] == body["dateStarted"] == body["dateCreated"]


def test_the_detected_activity_has_the_start_date_and_the_created_activity_the_acceptance_date(
    harness: Harness, acme: Acme
) -> None:
    id_ = harness.accept(an_open_command(dateStarted="2026-01-02T03:04:05Z"), **acme.by("own"))
    harness.apply()

    row = harness.ledger_row(id_)
    with harness.engine.connect() as connection:
        dated = connection.execute(
            select(activities.c.type, activities.c.date_added).where(
                activities.c.incident_id == int(row["outcome_body"]["id"])
            )
        ).all()
    started = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert {row.type: row.date_added for row in dated} == {4: started, 1: row["accepted_at"]}


def test_opening_publishes_one_event_and_subscribes_nobody(harness: Harness, acme: Acme) -> None:
    harness.execute(an_open_command(), **acme.by("own"))

    with harness.engine.connect() as connection:
        assert list(connection.exec_driver_sql("SELECT type FROM events").scalars()) == ["incident.opened"]
    assert harness.row_counts()["incident_subscriptions"] == 0
