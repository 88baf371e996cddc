"""What happens when an incident is closed, reopened, or gets worse."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select, update

from models.incidents.activity import activities
from models.incidents.incident import incidents
from models.incidents.subscription import subscriptions
from models.messaging.command_ledger import try_lock_subjects
from tasks.commands.comments import PostComment
from tasks.commands.incidents import OpenIncident, SetStatus
from tests.handlers.acme import Acme
from tests.handlers.conftest import Harness


def status(number: int = 2, *, of: str = "1", **facts: Any) -> SetStatus:
    return SetStatus.model_validate({"incident": of, "status": number, **facts})


def opened(key: str) -> OpenIncident:
    return OpenIncident.model_validate({"title": "Slow", "projects": ["p1"], "dedupKey": key})


def events(house: Harness) -> list[dict[str, Any]]:
    with house.engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT body FROM events WHERE subject = 'incidents/1' ORDER BY sequence")
        return [row.body for row in rows]


def the_incident(house: Harness, acme: Acme) -> Any:
    with house.engine.connect() as connection:
        return connection.execute(
            select(incidents).where(incidents.c.organization_id == acme.organizations["acme"])
        ).one()


def changes(house: Harness) -> list[Any]:
    with house.engine.connect() as connection:
        return list(connection.execute(select(activities).where(activities.c.type == 2).order_by(activities.c.id)))


def test_closing_answers_the_incident_as_it_is_now(house: Harness, acme: Acme) -> None:
    code, body = house.execute(status(), **acme.by("mem"))

    assert code == 200
    assert (body["status"], body["statusMethod"], body["isSubscribed"], body["version"]) == (2, 1, True, 2)


def test_closing_is_written_as_one_change_of_status_with_its_comment(house: Harness, acme: Acme) -> None:
    house.execute(status(comment=" Doubled the pool. "), **acme.by("mem"))

    [change] = changes(house)
    assert (change.value, change.previous_value, change.comment) == ("2", "1", "Doubled the pool.")
    assert change.user_id == 11
    assert house.row_counts()["incident_activities"] == 1


def test_the_closing_date_is_kept_exactly_and_answered_to_the_minute(house: Harness, acme: Acme) -> None:
    id_ = house.accept(status(), **acme.by("mem"))

    house.apply()

    row = house.ledger_row(id_)
    assert the_incident(house, acme).date_closed == row["accepted_at"]
    to_the_minute = row["accepted_at"].replace(second=0, microsecond=0, tzinfo=None)
    assert row["outcome_body"]["dateClosed"] == to_the_minute.isoformat() + "Z"


def test_whoever_closes_hears_of_the_incident_from_now_on(house: Harness, acme: Acme) -> None:
    house.execute(status(), **acme.by("mem"))

    with house.engine.connect() as connection:
        [row] = connection.execute(select(subscriptions))
    assert (row.user_id, row.reason) == (11, "closed")


def test_closing_is_announced_with_what_it_was_before(house: Harness, acme: Acme) -> None:
    house.execute(status(comment="Doubled the pool."), **acme.by("mem"))

    [event] = events(house)
    assert event["type"] == "incident.status_changed"
    assert (event["data"]["previousStatus"], event["data"]["status"]) == (1, 2)
    assert event["data"]["activity"]["comment"] == "Doubled the pool."


def test_closing_what_is_closed_changes_nothing_at_all(house: Harness, acme: Acme) -> None:
    house.execute(status(), **acme.by("mem"))
    before, counts = the_incident(house, acme), house.row_counts()

    code, body = house.execute(status(comment="Me too"), **acme.by("ana"))

    assert (code, body["status"], body["isSubscribed"]) == (200, 2, False)
    assert (the_incident(house, acme), house.row_counts()) == (before, counts)


def test_of_two_who_close_at_the_same_time_one_is_written(house: Harness, acme: Acme) -> None:
    ids = [house.accept(status(), **acme.by(name)) for name in ("mem", "ana")]

    house.apply()

    assert [house.ledger_row(id_)["outcome_status"] for id_ in ids] == [200, 200]
    assert [change.user_id for change in changes(house)] == [11]


@pytest.mark.parametrize("number", [1, 10, 20])
def test_other_statuses_take_a_write_scope(house: Harness, acme: Acme, number: int) -> None:
    house.execute(status(), **acme.by("mem"))

    refused, _ = house.execute(status(number), **acme.by("mem"))
    allowed, body = house.execute(status(number), **acme.by("ben"))

    assert (refused, allowed) == (403, 200)
    assert body["status"] == number


def test_only_open_forgets_the_closing_date(house: Harness, acme: Acme) -> None:
    house.execute(status(), **acme.by("ben"))

    _, worse = house.execute(status(20), **acme.by("ben"))
    _, fresh = house.execute(status(1), **acme.by("ben"))

    assert worse["dateClosed"] is not None
    assert fresh["dateClosed"] is None


def test_versions_stay_dense_over_comments_and_statuses(house: Harness, acme: Acme) -> None:
    for number in (20, 10, 2):
        house.execute(status(number), **acme.by("ben"))
    house.execute(PostComment.model_validate({"incident": "1", "comment": "Done"}), **acme.by("ben"))

    assert the_incident(house, acme).version == 5


def test_a_service_without_a_person_may_not_close(house: Harness, acme: Acme) -> None:
    code, _ = house.execute(status(), **acme.by_service())

    assert code == 403
    assert changes(house) == []


def test_a_service_that_acts_for_a_member_closes_in_their_name(house: Harness, acme: Acme) -> None:
    code, _ = house.execute(status(), **acme.by_service(acting_for="mem"))

    assert code == 200
    assert [change.user_id for change in changes(house)] == [11]


def test_a_stale_version_is_412_even_where_nothing_would_change(house: Harness, acme: Acme) -> None:
    house.execute(status(), **acme.by("mem"))

    stale, _ = house.execute(status(), expected_version=1, **acme.by("mem"))
    fresh, _ = house.execute(status(), expected_version=2, **acme.by("mem"))

    assert (stale, fresh) == (412, 200)


def test_an_incident_is_closed_by_its_key(house: Harness, acme: Acme) -> None:
    house.execute(opened("disk"), **acme.by_service())

    code, body = house.execute(status(of="dedup:disk"), **acme.by("mem"))
    gone, _ = house.execute(status(of="dedup:disk"), **acme.by("mem"))

    assert (code, body["identifier"], gone) == (200, "2", 404)


def test_in_one_batch_a_closed_incident_gives_its_key_to_the_next(house: Harness, acme: Acme) -> None:
    first = house.accept(opened("disk"), **acme.by_service())
    closing = house.accept(status(of="dedup:disk"), **acme.by("mem"))
    second = house.accept(opened("disk"), **acme.by_service())

    house.apply()

    assert [house.ledger_row(id_)["outcome_status"] for id_ in (first, closing, second)] == [201, 200, 201]
    assert house.ledger_row(second)["outcome_body"]["identifier"] == "3"


def test_reopening_while_another_open_incident_has_the_key_is_a_conflict(house: Harness, acme: Acme) -> None:
    house.execute(opened("disk"), **acme.by_service())
    house.execute(status(of="2"), **acme.by("ben"))
    house.execute(opened("disk"), **acme.by_service())

    conflict, _ = house.execute(status(10, of="2"), **acme.by("ben"))
    house.execute(status(of="3"), **acme.by("ben"))
    reopened, body = house.execute(status(10, of="2"), **acme.by("ben"))

    assert (conflict, reopened, body["status"]) == (409, 200, 10)


def test_a_reopened_incident_is_found_by_its_key_again(house: Harness, acme: Acme) -> None:
    house.execute(opened("disk"), **acme.by_service())
    house.execute(status(of="2"), **acme.by("ben"))
    house.execute(status(1, of="2"), **acme.by("ben"))

    code, body = house.execute(opened("disk"), **acme.by_service())

    assert (code, body["identifier"]) == (200, "2")


def test_an_incident_whose_projects_are_all_inactive_is_nobodys_to_close(house: Harness, acme: Acme) -> None:
    with house.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE projects SET status = 'inactive'")

    code, _ = house.execute(status(), **acme.by("own"))

    assert code == 403


def test_the_answer_says_who_has_seen_it(house: Harness, acme: Acme) -> None:
    with house.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO incident_seen SELECT id, 12, now() FROM incidents")

    _, body = house.execute(status(), **acme.by("mem"))

    assert ([each["username"] for each in body["seenBy"]], body["hasSeen"]) == (["ana"], False)


def test_closing_is_dated_after_what_happened_before_it(house: Harness, acme: Acme) -> None:
    with house.engine.begin() as connection:
        connection.execute(update(incidents).values(last_activity_at="2030-01-01T00:00:00Z"))

    house.execute(status(), **acme.by("mem"))

    [change] = changes(house)
    assert change.date_added.year == 2030


def test_an_opening_under_a_key_waits_for_the_closing_that_came_before_it(house: Harness, acme: Acme) -> None:
    house.execute(opened("disk"), **acme.by_service())
    organization = acme.organizations["acme"]
    closing = house.accept(status(of="2"), **acme.by("mem"))
    opening = house.accept(opened("disk"), **acme.by_service())

    with house.engine.begin() as someone_else:
        try_lock_subjects(someone_else, [f"incident:{organization}:2"])
        house.apply()
        waited = house.ledger_row(opening)["state"]
    house.apply()

    assert waited == "accepted"
    assert [house.ledger_row(id_)["outcome_status"] for id_ in (closing, opening)] == [200, 201]


def test_a_closing_waits_for_the_opening_under_the_key_that_came_before_it(house: Harness, acme: Acme) -> None:
    house.execute(opened("disk"), **acme.by_service())
    organization = acme.organizations["acme"]
    opening = house.accept(opened("disk"), **acme.by_service())
    closing = house.accept(status(of="2"), **acme.by("mem"))

    with house.engine.begin() as someone_else:
        try_lock_subjects(someone_else, [f"org:{organization}"])
        house.apply()
        waited = house.ledger_row(closing)["state"]
    house.apply()

    assert waited == "accepted"
    assert [house.ledger_row(id_)["outcome_status"] for id_ in (opening, closing)] == [200, 200]


def test_who_may_write_no_alerts_closes_all_the_same(house: Harness, acme: Acme) -> None:
    with house.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE organizations SET alerts_member_write = false")

    code, _ = house.execute(status(), **acme.by("mem"))

    assert code == 200


@pytest.mark.parametrize("worse", [10, 20])
def test_a_change_records_both_statuses_as_text(house: Harness, acme: Acme, worse: int) -> None:
    house.execute(status(worse), **acme.by("ben"))
    house.execute(status(), **acme.by("mem"))

    assert [(change.value, change.previous_value) for change in changes(house)] == [
        (str(worse), "1"),
        ("2", str(worse)),
    ]


def test_closing_unsubscribes_nobody(house: Harness, acme: Acme) -> None:
    house.execute(PostComment.model_validate({"incident": "1", "comment": "Look"}), **acme.by("ana"))

    house.execute(status(), **acme.by("mem"))

    with house.engine.connect() as connection:
        assert {row.user_id for row in connection.execute(select(subscriptions))} == {11, 12}
