"""What people do with their inbox, and how they stop hearing of an incident."""

from __future__ import annotations

from sqlalchemy import select

from models.base import new_id
from models.incidents.subscription import subscriptions
from models.notifications.notification import notifications
from tasks.commands.notifications import ReadNotifications
from tasks.commands.subscriptions import Unsubscribe
from tests.builders import a_subscription
from tests.handlers.acme import Acme
from tests.handlers.conftest import Harness


def an_item(house: Harness, acme: Acme, username: str, *, organization: str = "acme") -> int:
    with house.engine.begin() as connection:
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


def unread(house: Harness) -> set[int]:
    with house.engine.connect() as connection:
        return set(connection.execute(select(notifications.c.id).where(notifications.c.date_read.is_(None))).scalars())


def read(**fields: object) -> ReadNotifications:
    return ReadNotifications.model_validate(fields)


def test_items_are_read_by_their_ids(house: Harness, acme: Acme) -> None:
    first, second, third = (an_item(house, acme, "mem") for _ in range(3))

    answer = house.execute(read(ids=[str(first), third, 999, 2**70]), **acme.by("mem"))

    assert answer == (200, {"read": 2})
    assert unread(house) == {second}


def test_items_are_read_up_to_one_of_them_inclusive(house: Harness, acme: Acme) -> None:
    _, second, third = (an_item(house, acme, "mem") for _ in range(3))

    answer = house.execute(read(upTo=second), **acme.by("mem"))

    assert answer == (200, {"read": 2})
    assert unread(house) == {third}


def test_nobody_reads_the_items_of_another_person_or_organization(house: Harness, acme: Acme) -> None:
    others = {an_item(house, acme, "ana"), an_item(house, acme, "mem", organization="closed")}

    answer = house.execute(read(ids=sorted(others)), **acme.by("mem"))

    assert answer == (200, {"read": 0})
    assert unread(house) == others


def test_two_readings_of_one_batch_count_an_item_once(house: Harness, acme: Acme) -> None:
    item = an_item(house, acme, "mem")
    asked = [house.accept(read(ids=[item]), **acme.by("mem")) for _ in range(2)]

    house.apply()

    assert [house.ledger_row(id_)["outcome_body"] for id_ in asked] == [{"read": 1}, {"read": 0}]


def test_who_is_no_member_reads_nothing(house: Harness, acme: Acme) -> None:
    item = an_item(house, acme, "out")

    status, _ = house.execute(read(ids=[item]), **acme.by("out"))

    assert status == 403
    assert unread(house) == {item}


def test_who_unsubscribes_hears_of_the_incident_no_more(house: Harness, acme: Acme) -> None:
    with house.engine.begin() as connection:
        incident = connection.exec_driver_sql(
            "SELECT id FROM incidents WHERE organization_id = %(id)s", {"id": acme.organizations["acme"]}
        ).scalar_one()
        for user in (11, 12):
            a_subscription(connection, incident, user)

    answer = house.execute(Unsubscribe(incident="1"), **acme.by("mem"))

    assert answer == (200, {})
    with house.engine.connect() as connection:
        assert list(connection.execute(select(subscriptions.c.user_id)).scalars()) == [12]


def test_tocsin_itself_unsubscribes_who_has_lost_access(house: Harness, acme: Acme) -> None:
    with house.engine.begin() as connection:
        incident = connection.exec_driver_sql(
            "SELECT id FROM incidents WHERE organization_id = %(id)s", {"id": acme.organizations["acme"]}
        ).scalar_one()
        a_subscription(connection, incident, acme.users["out"])

    status, _ = house.execute(
        Unsubscribe(incident="1"), organization=acme.organizations["acme"], token=None, user=acme.users["out"]
    )

    assert status == 200
    with house.engine.connect() as connection:
        assert list(connection.execute(select(subscriptions.c.user_id)).scalars()) == []
