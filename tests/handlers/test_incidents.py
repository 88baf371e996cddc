"""How an incident is opened."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from sqlalchemy import select

from models.incidents.activity import activities
from tasks.commands.incidents import OpenIncident
from tests.handlers.acme import Acme
from tests.handlers.conftest import Harness


def opening(**fields: object) -> OpenIncident:
    return OpenIncident.model_validate({"title": "Disk full", "projects": ["p1"]} | fields)


def test_an_incident_gets_the_next_number_of_its_organization(house: Harness, acme: Acme) -> None:
    first = house.execute(opening(), **acme.by_service())
    second = house.execute(opening(), **acme.by("ben"))

    assert [(status, body["identifier"]) for status, body in (first, second)] == [(201, "2"), (201, "3")]


def test_an_opened_incident_shows_what_was_asked_for(house: Harness, acme: Acme) -> None:
    _, body = house.execute(
        opening(status="20", dateStarted="2026-01-02T03:04:05Z", projects=["p2", "p1"]), **acme.by("own")
    )

    assert (body["title"], body["status"], body["type"], body["projects"]) == ("Disk full", 20, 0, ["p1", "p2"])
    assert (body["dateStarted"], body["dateDetected"]) == ("2026-01-02T03:04:05Z",) * 2
    assert (body["alertRule"], body["discoverQuery"], body["version"]) == (None, "", 1)
    assert (body["seenBy"], body["hasSeen"], body["isSubscribed"]) == ([], False, False)


def test_an_opening_leaves_exactly_the_activities_detected_and_created(house: Harness, acme: Acme) -> None:
    _, body = house.execute(opening(dateStarted="2026-01-02T03:04:05Z"), **acme.by("own"))

    with house.engine.connect() as connection:
        kinds = connection.execute(
            select(activities.c.type).where(activities.c.incident_id == int(body["id"])).order_by(activities.c.id)
        ).scalars()
        assert list(kinds) == [4, 1]


def test_an_open_incident_with_the_same_key_is_answered_instead_of_a_second_one(house: Harness, acme: Acme) -> None:
    ids = [house.accept(opening(dedupKey="disk"), **acme.by_service()) for _ in range(3)]

    house.apply()

    rows = [house.ledger_row(id_) for id_ in ids]
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
def test_what_does_not_exist_is_refused_and_nothing_is_written(
    house: Harness, acme: Acme, fields: dict[str, object], errors: object
) -> None:
    before = house.row_counts()

    answer = house.execute(opening(**fields), **acme.by("own"))

    assert answer == (400, errors)
    assert house.row_counts() == before


def test_a_plain_member_may_not_open_an_incident(house: Harness, acme: Acme) -> None:
    before = house.row_counts()

    status, _ = house.execute(opening(), **acme.by("mem"))

    assert status == 403
    assert house.row_counts() == before


def test_an_organizations_incidents_are_numbered_from_1(house: Harness, acme: Acme) -> None:
    with house.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM incidents")
    ids = [house.accept(opening(), **acme.by_service()) for _ in range(3)]

    house.apply()

    assert [house.ledger_row(id_)["outcome_body"]["identifier"] for id_ in ids] == ["1", "2", "3"]


def test_an_incident_is_opened_as_one_that_was_detected_and_not_set_by_hand(house: Harness, acme: Acme) -> None:
    _, body = house.execute(opening(), **acme.by_service())

    assert (body["status"], body["statusMethod"], body["type"], body["dateClosed"]) == (1, 3, 0, None)
    assert body["dateDetected"] == body["dateStarted"] == body["dateCreated"]


def test_the_detection_is_dated_by_the_start_and_the_creation_by_the_opening(house: Harness, acme: Acme) -> None:
    id_ = house.accept(opening(dateStarted="2026-01-02T03:04:05Z"), **acme.by("own"))
    house.apply()

    row = house.ledger_row(id_)
    with house.engine.connect() as connection:
        dated = connection.execute(
            select(activities.c.type, activities.c.date_added).where(
                activities.c.incident_id == int(row["outcome_body"]["id"])
            )
        ).all()
    started = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert {row.type: row.date_added for row in dated} == {4: started, 1: row["accepted_at"]}


def test_an_opening_is_announced_once_and_subscribes_nobody(house: Harness, acme: Acme) -> None:
    house.execute(opening(), **acme.by("own"))

    with house.engine.connect() as connection:
        assert list(connection.exec_driver_sql("SELECT type FROM events").scalars()) == ["incident.opened"]
    assert house.row_counts()["incident_subscriptions"] == 0
