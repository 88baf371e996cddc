"""The handler that marks inbox items as read."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import select, text

from models.base import new_id
from models.notifications.notification import notifications
from tasks.commands.incidents import OpenIncident
from tasks.commands.notifications import ReadNotifications
from tests.handlers.acme import Acme
from tests.harness import Harness
from workers.handlers import notifications as handler
from workers.handlers.notifications import ITEMS_PER_COMMAND


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


def many_items(harness: Harness, acme: Acme, username: str, number: int) -> int:
    """Insert unread items with one statement; return the highest id."""
    with harness.engine.begin() as connection:
        last: int = connection.execute(
            text(
                "WITH items AS (INSERT INTO notifications"
                " (organization_id, user_id, incident_id, activity_id, event_id, event_type, reason)"
                " SELECT :organization, :user, (SELECT min(id) FROM incidents), n, gen_random_uuid(),"
                " 'incident.comment_posted', 'mention' FROM generate_series(1, :number) AS n RETURNING id)"
                " SELECT max(id) FROM items"
            ),
            {"organization": acme.organizations["acme"], "user": acme.users[username], "number": number},
        ).scalar_one()
    return last


def read_per_transaction(harness: Harness) -> list[int]:
    """Return how many items each transaction has marked as read, in order."""
    with harness.engine.connect() as connection:
        statement = "SELECT count(*) FROM notifications GROUP BY xmin ORDER BY min(date_read)"
        return list(connection.exec_driver_sql(statement).scalars())


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


def test_all_items_are_marked_as_read(harness: Harness, acme: Acme) -> None:
    for _ in range(3):
        an_item(harness, acme, "mem")
    others = an_item(harness, acme, "ana")

    assert harness.execute(read(all=True), **acme.by("mem")) == (200, {"read": 3})
    assert unread(harness) == {others}


def about_another_incident(harness: Harness, acme: Acme, item: int) -> int:
    """Move the item to a new incident; return the incident's number."""
    opened = harness.execute(
        OpenIncident.model_validate({"title": "Other", "projects": ["p1"], "dedupKey": "other"}), **acme.by_service()
    )
    with harness.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE notifications SET incident_id = (SELECT max(id) FROM incidents) WHERE id = %(id)s", {"id": item}
        )
    return int(opened[1]["identifier"])


@pytest.mark.parametrize("by_key", [False, True])
def test_the_items_about_an_incident_are_marked_as_read(harness: Harness, acme: Acme, by_key: bool) -> None:
    first, second = (an_item(harness, acme, "mem") for _ in range(2))
    others = an_item(harness, acme, "ana")
    number = about_another_incident(harness, acme, second)

    outcome = harness.execute(read(incident="dedup:other" if by_key else number), **acme.by("mem"))

    assert outcome == (200, {"read": 1})
    assert unread(harness) == {first, others}


def test_an_item_counts_once_whichever_selections_of_a_batch_contain_it(harness: Harness, acme: Acme) -> None:
    items = [an_item(harness, acme, "mem") for _ in range(3)]
    submitted = [read(ids=[items[0]]), read(incident=1), read(all=True)]

    ids = harness.accept_all(submitted, **acme.by("mem"))
    harness.apply()

    assert [harness.ledger_row(id_)["outcome_body"] for id_ in ids] == [{"read": n} for n in (1, 2, 0)]
    assert unread(harness) == set()


@pytest.mark.parametrize("reference", ["999", "dedup:none", "none"])
def test_the_items_about_an_unknown_incident_cannot_be_marked(harness: Harness, acme: Acme, reference: str) -> None:
    status, _ = harness.execute(read(incident=reference), **acme.by("mem"))

    assert status == 404


@pytest.mark.parametrize("selection", [{"upTo": 2**62}, {"all": True}, {"incident": 1}, {"ids": True}])
def test_a_retracted_item_is_not_counted(harness: Harness, acme: Acme, selection: dict[str, object]) -> None:
    retracted, kept = (an_item(harness, acme, "mem") for _ in range(2))
    with harness.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE notifications SET retracted = true WHERE id = %(id)s", {"id": retracted})
    fields = {"ids": [retracted, kept]} if "ids" in selection else selection

    assert harness.execute(read(**fields), **acme.by("mem")) == (200, {"read": 1})
    assert unread(harness) == {retracted}


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


def test_a_full_inbox_is_marked_as_read_in_slices(harness: Harness, acme: Acme) -> None:
    number = 25_000
    last = many_items(harness, acme, "mem", number)

    outcome = harness.execute(read(upTo=last), **acme.by("mem"))

    assert outcome == (200, {"read": number})
    assert unread(harness) == set()
    assert read_per_transaction(harness) == [ITEMS_PER_COMMAND, ITEMS_PER_COMMAND, number - 2 * ITEMS_PER_COMMAND]


def test_ids_are_marked_as_read_in_slices(harness: Harness, acme: Acme, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler, "ITEMS_PER_COMMAND", 2)
    items = [an_item(harness, acme, "mem") for _ in range(5)]

    outcome = harness.execute(read(ids=items), **acme.by("mem"))

    assert outcome == (200, {"read": 5})
    assert read_per_transaction(harness) == [2, 2, 1]


def test_an_item_that_arrives_while_an_inbox_is_marked_as_read_stays_unread(
    harness: Harness, acme: Acme, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handler, "ITEMS_PER_COMMAND", 2)
    for _ in range(5):
        an_item(harness, acme, "mem")
    arrived: list[int] = []
    applier = replace(harness.applier(), on_commit=lambda _: arrived.append(an_item(harness, acme, "mem")))

    command = harness.accept(read(upTo=2**62), **acme.by("mem"))
    applier.drain(())

    assert harness.ledger_row(command)["outcome_body"] == {"read": 5}
    assert len(arrived) == 3
    assert unread(harness) == set(arrived)


def test_commands_of_a_batch_share_the_limit_of_items_marked_as_read(
    harness: Harness, acme: Acme, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handler, "ITEMS_PER_COMMAND", 4)
    items = [an_item(harness, acme, "mem") for _ in range(10)]
    submitted = [read(upTo=items[2]), read(ids=[items[1], items[4]]), read(upTo=items[7]), read(upTo=items[5])]

    ids = harness.accept_all(submitted, **acme.by("mem"))
    harness.apply()

    assert [harness.ledger_row(id_)["outcome_body"] for id_ in ids] == [{"read": n} for n in (3, 1, 4, 0)]
    assert unread(harness) == set(items[8:])


def test_a_full_inbox_does_not_delay_another_persons_command(
    harness: Harness, acme: Acme, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handler, "ITEMS_PER_COMMAND", 2)
    for _ in range(3):
        an_item(harness, acme, "mem")
    item = an_item(harness, acme, "ana")
    for username in ("mem", "ana"):
        harness.accept(read(upTo=item), **acme.by(username))
    unread_after_batch: list[set[int]] = []
    applier = replace(harness.applier(), on_commit=lambda _: unread_after_batch.append(unread(harness)))

    applier.drain(())

    assert [len(each) for each in unread_after_batch] == [1, 0]
    assert item not in unread_after_batch[0]
