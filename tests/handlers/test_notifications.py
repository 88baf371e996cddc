"""The handler that marks inbox items as read."""

from __future__ import annotations

from sqlalchemy import select

from models.base import new_id
from models.notifications.notification import notifications
from tasks.commands.notifications import ReadNotifications
from tests.handlers.acme import Acme
from tests.harness import Harness


def an_item(harness: Harness, acme: Acme, username: str, *, organization: str = "acme") -> int:
    with harness.engine.begin() as connection:
        id_: int = connection.execute(
            notifications.insert()
            .values(
                organization_id=acme.organizations[organization],
                user_id=acme.users[username],
                incident_id=connection.exec_driver_sql("SELECT min(id) FROM incidents").scalar_one(),
                activity_id=connection.exec_driver_sql("SELECT count(*) + 1 FROM notifications").scalar_one(),
                event_id=new_id(),
                event_type="incident.comment_posted",
                reason="mention",
            )
            .returning(notifications.c.id)
        ).scalar_one()
    return id_


def unread(harness: Harness) -> set[int]:
    with harness.engine.connect() as connection:
        return set(connection.execute(select(notifications.c.id).where(notifications.c.date_read.is_(None))).scalars())


def read(**fields: object) -> ReadNotifications:
    return ReadNotifications.model_validate(fields)


def test_items_are_marked_as_read_by_id(harness: Harness, acme: Acme) -> None:
    first, second, third = (an_item(harness, acme, "mem") for _ in range(3))

    outcome = harness.execute(read(ids=[str(first), third, 999, 2**70]), **acme.by("mem"))

    assert outcome == (200, {"read": 2})
    assert unread(harness) == {second}


def test_items_are_marked_as_read_up_to_an_id_inclusive(harness: Harness, acme: Acme) -> None:
    _, second, third = (an_item(harness, acme, "mem") for _ in range(3))

    outcome = harness.execute(read(upTo=second), **acme.by("mem"))

    assert outcome == (200, {"read": 2})
    assert unread(harness) == {third}


def test_items_of_another_person_or_organization_stay_unread(harness: Harness, acme: Acme) -> None:
    others = {an_item(harness, acme, "ana"), an_item(harness, acme, "mem", organization="closed")}

    outcome = harness.execute(read(ids=sorted(others)), **acme.by("mem"))

    assert outcome == (200, {"read": 0})
    assert unread(harness) == others


def test_an_item_marked_as_read_twice_in_one_batch_counts_once(harness: Harness, acme: Acme) -> None:
    item = an_item(harness, acme, "mem")
    ids = [harness.accept(read(ids=[item]), **acme.by("mem")) for _ in range(2)]

    harness.apply()

    assert [harness.ledger_row(id_)["outcome_body"] for id_ in ids] == [{"read": 1}, {"read": 0}]


def test_a_non_member_cannot_mark_items_as_read(harness: Harness, acme: Acme) -> None:
    item = an_item(harness, acme, "out")

    status, _ = harness.execute(read(ids=[item]), **acme.by("out"))

    assert status == 403
    assert unread(harness) == {item}
