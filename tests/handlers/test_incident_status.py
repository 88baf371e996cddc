"""The handler that sets an incident's status: it closes, reopens, or changes the severity."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select, update

from models.incidents.activity import activities
from models.incidents.incident import incidents
from models.incidents.subscription import subscriptions
from tasks.commands.comments import PostComment
from tasks.commands.incidents import OpenIncident, SetStatus
from tests.handlers.acme import Acme
from tests.harness import Harness


def set_status(number: int = 2, *, incident: str = "1", **facts: Any) -> SetStatus:
    return SetStatus.model_validate({"incident": incident, "status": number, **facts})


def open_incident(key: str) -> OpenIncident:
    return OpenIncident.model_validate({"title": "Slow", "projects": ["p1"], "dedupKey": key})


def events(harness: Harness) -> list[dict[str, Any]]:
    with harness.engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT body FROM events WHERE subject = 'incidents/1' ORDER BY sequence")
        return [row.body for row in rows]


def the_incident(harness: Harness, acme: Acme) -> Any:
    with harness.engine.connect() as connection:
        return connection.execute(
            select(incidents).where(incidents.c.organization_id == acme.organizations["acme"])
        ).one()


def status_changes(harness: Harness) -> list[Any]:
    with harness.engine.connect() as connection:
        return list(connection.execute(select(activities).where(activities.c.type == 2).order_by(activities.c.id)))


def test_closing_returns_the_updated_incident(harness: Harness, acme: Acme) -> None:
    code, body = harness.execute(set_status(), **acme.by("mem"))

    assert code == 200
    assert (body["status"], body["statusMethod"], body["isSubscribed"], body["version"]) == (2, 1, True, 2)


def test_closing_records_one_status_change_with_its_comment(harness: Harness, acme: Acme) -> None:
    harness.execute(set_status(comment=" Doubled the pool. "), **acme.by("mem"))

    [change] = status_changes(harness)
    assert (change.value, change.previous_value, change.comment) == ("2", "1", "Doubled the pool.")
    assert change.user_id == 11
    assert harness.row_counts()["incident_activities"] == 1


def test_the_closing_date_is_stored_exactly_and_returned_to_the_minute(harness: Harness, acme: Acme) -> None:
    id_ = harness.accept(set_status(), **acme.by("mem"))

    harness.apply()

    row = harness.ledger_row(id_)
    assert the_incident(harness, acme).date_closed == row["accepted_at"]
    to_the_minute = row["accepted_at"].replace(second=0, microsecond=0, tzinfo=None)
    assert row["outcome_body"]["dateClosed"] == to_the_minute.isoformat() + "Z"


def test_closing_subscribes_the_person_who_closes(harness: Harness, acme: Acme) -> None:
    harness.execute(set_status(), **acme.by("mem"))

    with harness.engine.connect() as connection:
        [row] = connection.execute(select(subscriptions))
    assert (row.user_id, row.reason) == (11, "closed")


def test_closing_is_published_with_the_previous_status(harness: Harness, acme: Acme) -> None:
    harness.execute(set_status(comment="Doubled the pool."), **acme.by("mem"))

    [event] = events(harness)
    assert event["type"] == "incident.status_changed"
    assert (event["data"]["previousStatus"], event["data"]["status"]) == (1, 2)
    assert event["data"]["activity"]["comment"] == "Doubled the pool."


def test_closing_a_closed_incident_changes_nothing(harness: Harness, acme: Acme) -> None:
    harness.execute(set_status(), **acme.by("mem"))
    before, counts = the_incident(harness, acme), harness.row_counts()

    code, body = harness.execute(set_status(comment="Me too"), **acme.by("ana"))

    assert (code, body["status"], body["isSubscribed"]) == (200, 2, False)
    assert (the_incident(harness, acme), harness.row_counts()) == (before, counts)


def test_closing_an_incident_twice_in_one_batch_is_recorded_once(harness: Harness, acme: Acme) -> None:
    ids = [harness.accept(set_status(), **acme.by(name)) for name in ("mem", "ana")]

    harness.apply()

    assert [harness.ledger_row(id_)["outcome_status"] for id_ in ids] == [200, 200]
    assert [change.user_id for change in status_changes(harness)] == [11]


@pytest.mark.parametrize("number", [1, 10, 20])
def test_statuses_other_than_closed_require_a_write_scope(harness: Harness, acme: Acme, number: int) -> None:
    harness.execute(set_status(), **acme.by("mem"))

    refused, _ = harness.execute(set_status(number), **acme.by("mem"))
    allowed, body = harness.execute(set_status(number), **acme.by("ben"))

    assert (refused, allowed) == (403, 200)
    assert body["status"] == number


def test_only_the_open_status_clears_the_closing_date(harness: Harness, acme: Acme) -> None:
    harness.execute(set_status(), **acme.by("ben"))

    _, worse = harness.execute(set_status(20), **acme.by("ben"))
    _, fresh = harness.execute(set_status(1), **acme.by("ben"))

    assert worse["dateClosed"] is not None
    assert fresh["dateClosed"] is None


def test_every_comment_and_status_change_increments_the_version_by_one(harness: Harness, acme: Acme) -> None:
    for number in (20, 10, 2):
        harness.execute(set_status(number), **acme.by("ben"))
    harness.execute(PostComment.model_validate({"incident": "1", "comment": "Done"}), **acme.by("ben"))

    assert the_incident(harness, acme).version == 5


def test_a_service_that_acts_for_nobody_may_not_close_an_incident(harness: Harness, acme: Acme) -> None:
    code, _ = harness.execute(set_status(), **acme.by_service())

    assert code == 403
    assert status_changes(harness) == []


def test_a_service_that_acts_for_a_member_closes_an_incident_in_their_name(harness: Harness, acme: Acme) -> None:
    code, _ = harness.execute(set_status(), **acme.by_service(acting_for="mem"))

    assert code == 200
    assert [change.user_id for change in status_changes(harness)] == [11]


def test_a_stale_version_is_412_even_if_nothing_would_change(harness: Harness, acme: Acme) -> None:
    harness.execute(set_status(), **acme.by("mem"))

    stale, _ = harness.execute(set_status(), expected_version=1, **acme.by("mem"))
    fresh, _ = harness.execute(set_status(), expected_version=2, **acme.by("mem"))

    assert (stale, fresh) == (412, 200)


def test_an_incident_can_be_closed_by_its_dedup_key(harness: Harness, acme: Acme) -> None:
    harness.execute(open_incident("disk"), **acme.by_service())

    code, body = harness.execute(set_status(incident="dedup:disk"), **acme.by("mem"))
    gone, _ = harness.execute(set_status(incident="dedup:disk"), **acme.by("mem"))

    assert (code, body["identifier"], gone) == (200, "2", 404)


def test_closing_frees_the_dedup_key_for_another_incident_in_the_same_batch(harness: Harness, acme: Acme) -> None:
    first = harness.accept(open_incident("disk"), **acme.by_service())
    closing = harness.accept(set_status(incident="dedup:disk"), **acme.by("mem"))
    second = harness.accept(open_incident("disk"), **acme.by_service())

    harness.apply()

    assert [harness.ledger_row(id_)["outcome_status"] for id_ in (first, closing, second)] == [201, 200, 201]
    assert harness.ledger_row(second)["outcome_body"]["identifier"] == "3"


def test_reopening_while_another_open_incident_has_the_dedup_key_is_a_conflict(harness: Harness, acme: Acme) -> None:
    harness.execute(open_incident("disk"), **acme.by_service())
    harness.execute(set_status(incident="2"), **acme.by("ben"))
    harness.execute(open_incident("disk"), **acme.by_service())

    conflict, _ = harness.execute(set_status(10, incident="2"), **acme.by("ben"))
    harness.execute(set_status(incident="3"), **acme.by("ben"))
    reopened, body = harness.execute(set_status(10, incident="2"), **acme.by("ben"))

    assert (conflict, reopened, body["status"]) == (409, 200, 10)


def test_a_reopened_incident_is_found_by_its_dedup_key_again(harness: Harness, acme: Acme) -> None:
    harness.execute(open_incident("disk"), **acme.by_service())
    harness.execute(set_status(incident="2"), **acme.by("ben"))
    harness.execute(set_status(1, incident="2"), **acme.by("ben"))

    code, body = harness.execute(open_incident("disk"), **acme.by_service())

    assert (code, body["identifier"]) == (200, "2")


def test_an_incident_whose_projects_are_all_inactive_cannot_be_closed(harness: Harness, acme: Acme) -> None:
    with harness.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE projects SET status = 'inactive'")

    code, _ = harness.execute(set_status(), **acme.by("own"))

    assert code == 403


def test_the_returned_incident_lists_who_has_seen_it(harness: Harness, acme: Acme) -> None:
    with harness.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO incident_seen SELECT id, 12, now() FROM incidents")

    _, body = harness.execute(set_status(), **acme.by("mem"))

    assert ([each["username"] for each in body["seenBy"]], body["hasSeen"]) == (["ana"], False)


def test_closing_is_dated_no_earlier_than_the_last_activity(harness: Harness, acme: Acme) -> None:
    with harness.engine.begin() as connection:
        connection.execute(update(incidents).values(last_activity_at="2030-01-01T00:00:00Z"))

    harness.execute(set_status(), **acme.by("mem"))

    [change] = status_changes(harness)
    assert change.date_added.year == 2030


def test_one_batch_can_close_an_incident_and_open_another_with_its_dedup_key(harness: Harness, acme: Acme) -> None:
    harness.execute(open_incident("disk"), **acme.by_service())
    changes = [
        harness.accept(set_status(incident="2"), **acme.by("mem")),
        harness.accept(open_incident("disk"), **acme.by_service()),
    ]

    harness.apply()

    assert [harness.ledger_row(id_)["outcome_status"] for id_ in changes] == [200, 201]
    assert harness.results[-1].finished == changes


def test_a_member_who_may_not_write_alert_rules_may_still_close(harness: Harness, acme: Acme) -> None:
    with harness.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE organizations SET alerts_member_write = false")

    code, _ = harness.execute(set_status(), **acme.by("mem"))

    assert code == 200


@pytest.mark.parametrize("worse", [10, 20])
def test_a_status_change_records_the_old_and_the_new_status_as_text(harness: Harness, acme: Acme, worse: int) -> None:
    harness.execute(set_status(worse), **acme.by("ben"))
    harness.execute(set_status(), **acme.by("mem"))

    assert [(change.value, change.previous_value) for change in status_changes(harness)] == [
        (str(worse), "1"),
        ("2", str(worse)),
    ]


def test_closing_unsubscribes_nobody(harness: Harness, acme: Acme) -> None:
    harness.execute(PostComment.model_validate({"incident": "1", "comment": "Look"}), **acme.by("ana"))

    harness.execute(set_status(), **acme.by("mem"))

    with harness.engine.connect() as connection:
        assert {row.user_id for row in connection.execute(select(subscriptions))} == {11, 12}
