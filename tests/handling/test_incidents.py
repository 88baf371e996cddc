"""How an incident is opened."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from models.activity import activities
from tasks.commands import OpenIncident
from tests.handling.acme import Acme
from tests.handling.conftest import House


@pytest.fixture
def acme(house: House) -> Acme:
    return Acme(house.engine)


def opening(**fields: object) -> OpenIncident:
    return OpenIncident.model_validate({"title": "Disk full", "projects": ["p1"]} | fields)


def test_an_incident_gets_the_next_number_of_its_organization(house: House, acme: Acme) -> None:
    first = house.answer(opening(), **acme.by_bot())
    second = house.answer(opening(), **acme.by("ben"))

    assert [(status, body["identifier"]) for status, body in (first, second)] == [(201, "2"), (201, "3")]


def test_an_opened_incident_shows_what_was_asked_for(house: House, acme: Acme) -> None:
    _, body = house.answer(
        opening(status="20", dateStarted="2026-01-02T03:04:05Z", projects=["p2", "p1"]), **acme.by("own")
    )

    assert (body["title"], body["status"], body["type"], body["projects"]) == ("Disk full", 20, 0, ["p1", "p2"])
    assert (body["dateStarted"], body["dateDetected"]) == ("2026-01-02T03:04:05Z",) * 2
    assert (body["alertRule"], body["discoverQuery"], body["version"]) == (None, "", 1)
    assert (body["seenBy"], body["hasSeen"], body["isSubscribed"]) == ([], False, False)


def test_an_opening_leaves_exactly_the_activities_detected_and_created(house: House, acme: Acme) -> None:
    _, body = house.answer(opening(dateStarted="2026-01-02T03:04:05Z"), **acme.by("own"))

    with house.engine.connect() as connection:
        kinds = connection.execute(
            select(activities.c.type).where(activities.c.incident_id == int(body["id"])).order_by(activities.c.id)
        ).scalars()
        assert list(kinds) == [4, 1]


def test_an_open_incident_with_the_same_key_is_answered_instead_of_a_second_one(house: House, acme: Acme) -> None:
    ids = [house.accept(opening(dedupKey="disk"), **acme.by_bot()) for _ in range(3)]

    house.apply()

    rows = [house.resource(id_) for id_ in ids]
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
    house: House, acme: Acme, fields: dict[str, object], errors: object
) -> None:
    before = house.counts()

    answer = house.answer(opening(**fields), **acme.by("own"))

    assert answer == (400, errors)
    assert house.counts() == before


def test_a_plain_member_may_not_open_an_incident(house: House, acme: Acme) -> None:
    before = house.counts()

    status, _ = house.answer(opening(), **acme.by("mem"))

    assert status == 403
    assert house.counts() == before
