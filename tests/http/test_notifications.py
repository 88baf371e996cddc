"""The inbox over HTTP: order, unread count, access, marking as read, and the decisions behind an item."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.engine import Engine

from gateway.settings import GatewaySettings
from tests.builders import a_comment
from tests.handlers.acme import Acme
from tests.http.gateway_server import ACME, Gateway, Worker, running_gateway


def a_notification(ledger: Engine, *, comment: str, by: str = "acme", user: int = 12) -> int:
    """Insert an item into a person's inbox, by default Ana's; return the id of the activity it refers to."""
    with ledger.begin() as connection:
        row = connection.exec_driver_sql(
            "SELECT i.id, i.organization_id FROM incidents i JOIN organizations o ON o.id = i.organization_id"
            " WHERE o.slug = %(by)s AND i.identifier = 1",
            {"by": by},
        ).one()
        activity = a_comment(connection, row.id, by=11, text=comment)
        connection.exec_driver_sql(
            "INSERT INTO notifications"
            " (organization_id, user_id, incident_id, activity_id, event_id, event_type, reason)"
            " VALUES (%(organization)s, %(user)s, %(incident)s, %(activity)s, gen_random_uuid(),"
            " 'incident.comment_posted', 'mention')",
            {"organization": row.organization_id, "user": user, "incident": row.id, "activity": activity},
        )
        return activity


def test_the_inbox_is_ordered_newest_first_and_counts_unread_items(
    gateway: Gateway, ledger: Engine, busy_worker: Worker
) -> None:
    a_notification(ledger, comment="old")
    newer = a_notification(ledger, comment="new")

    inbox = gateway.get(f"{ACME}/notifications/", by="dev-ana").json()
    read = gateway.post(f"{ACME}/notifications/read/", {"ids": [inbox[1]["id"]]}, by="dev-ana")

    assert [item["text"] for item in inbox] == ["new", "old"]
    assert inbox[0] | {"id": "", "event": None, "dateCreated": ""} == {
        "id": "", "reason": "mention", "event": None,
        "incident": {"identifier": "1", "title": inbox[0]["incident"]["title"]},
        "activity": {"id": str(newer)}, "author": {"id": "11", "name": "Mem"},
        "link": f"{gateway.url}/organizations/acme/alerts/1/", "text": "new", "dateCreated": "", "dateRead": None,
        "retracted": False,
    }  # fmt: skip
    assert (read.status_code, read.json()) == (200, {"read": 1})
    assert gateway.get(f"{ACME}/notifications/count/", by="dev-ana").json() == {"unread": 1}
    unread = gateway.get(f"{ACME}/notifications/?unread=1", by="dev-ana").json()
    assert [item["text"] for item in unread] == ["new"]
    assert gateway.get(f"{ACME}/notifications/").json() == []


def test_an_inbox_item_shows_the_edited_text_and_a_retracted_one_shows_none(
    gateway: Gateway, ledger: Engine, acme: Acme
) -> None:
    activity = a_notification(ledger, comment="old")

    with ledger.begin() as connection:
        connection.exec_driver_sql("UPDATE incident_activities SET comment = 'edited'")
    edited = gateway.get(f"{ACME}/notifications/", by="dev-ana").json()
    with ledger.begin() as connection:
        connection.exec_driver_sql("DELETE FROM incident_activities WHERE id = %(id)s", {"id": activity})
        connection.exec_driver_sql("UPDATE notifications SET retracted = true")
    retracted = gateway.get(f"{ACME}/notifications/", by="dev-ana").json()

    assert [(item["text"], item["retracted"]) for item in edited + retracted] == [("edited", False), ("", True)]


def test_the_inbox_hides_items_the_caller_can_no_longer_read(gateway: Gateway, ledger: Engine, acme: Acme) -> None:
    a_notification(ledger, comment="secret")

    with ledger.begin() as connection:
        connection.exec_driver_sql("UPDATE organizations SET open_membership = false")
        connection.exec_driver_sql("UPDATE team_members SET is_active = false")

    assert gateway.get(f"{ACME}/notifications/", by="dev-ana").json() == []
    assert gateway.get(f"{ACME}/notifications/count/", by="dev-ana").json() == {"unread": 0}


def test_links_start_with_the_public_url(settings: Callable[..., GatewaySettings], ledger: Engine, acme: Acme) -> None:
    a_notification(ledger, comment="new")

    with running_gateway(settings(public_url="https://tocsin.x.test/base/")) as gateway:
        inbox = gateway.get(f"{ACME}/notifications/", by="dev-ana").json()

    assert [item["link"] for item in inbox] == ["https://tocsin.x.test/base/organizations/acme/alerts/1/"]


def test_a_retracted_item_is_not_unread_and_has_no_author(gateway: Gateway, ledger: Engine, acme: Acme) -> None:
    retracted = a_notification(ledger, comment="retracted")
    a_notification(ledger, comment="kept")
    with ledger.begin() as connection:
        connection.exec_driver_sql("DELETE FROM incident_activities WHERE id = %(id)s", {"id": retracted})
        connection.exec_driver_sql(
            "UPDATE notifications SET retracted = true WHERE activity_id = %(id)s", {"id": retracted}
        )

    everything = gateway.get(f"{ACME}/notifications/", by="dev-ana").json()
    unread = gateway.get(f"{ACME}/notifications/?unread=true", by="dev-ana").json()

    assert [item["author"] for item in everything] == [{"id": "11", "name": "Mem"}, None]
    assert unread == everything[:1]
    assert gateway.get(f"{ACME}/notifications/count/", by="dev-ana").json() == {"unread": 1}


@pytest.mark.parametrize("value", ["1", "true", "0", "false"])
def test_unread_is_a_flag(gateway: Gateway, value: str) -> None:
    assert gateway.get(f"{ACME}/notifications/?unread={value}").status_code == 200


@pytest.mark.parametrize("value", ["", "2", "yes", "True"])
def test_any_other_value_of_unread_is_refused(gateway: Gateway, value: str) -> None:
    response = gateway.get(f"{ACME}/notifications/?unread={value}")

    assert (response.status_code, response.json()) == (400, {"unread": ["Valid values: 1, true, 0, false."]})


@pytest.mark.parametrize(
    "body",
    [{}, {"ids": [1], "upTo": 2}, {"ids": None, "upTo": None}, {"all": True, "incident": 1}, {"upTo": 1, "all": True}],
)
def test_marking_as_read_requires_exactly_one_selection(gateway: Gateway, body: Any) -> None:
    response = gateway.post(f"{ACME}/notifications/read/", body)

    assert response.status_code == 400
    assert response.json() == {"non_field_errors": ["Send exactly one of ids, upTo, incident and all."]}


def test_only_true_selects_everything(gateway: Gateway) -> None:
    response = gateway.post(f"{ACME}/notifications/read/", {"all": False})

    assert (response.status_code, response.json()) == (400, {"all": ["Must be true."]})


# --- why the caller was, or was not, notified ----------------------------------------------------------------------


def a_decision(ledger: Engine, activity: int, *, user: int = 12, **facts: Any) -> str:
    """Record a decision about a person and an activity of incident 1; return the event's id."""
    values = {"channel": "inbox", "outcome": "delivered", "rule": "mention", "detail": "", "minutes_ago": 0} | facts
    with ledger.begin() as connection:
        event = connection.exec_driver_sql(
            "INSERT INTO notification_decisions"
            " (activity_id, user_id, channel, incident_id, event_id, outcome, rule, detail, at)"
            " SELECT a.id, %(user)s, %(channel)s, a.incident_id, gen_random_uuid(), %(outcome)s, %(rule)s, %(detail)s,"
            " now() - make_interval(mins => %(minutes_ago)s)"
            " FROM incident_activities a WHERE a.id = %(activity)s RETURNING event_id",
            values | {"user": user, "activity": activity},
        ).scalar_one()
    return str(event)


def item_path(gateway: Gateway) -> str:
    """Return the path of the newest item in Ana's inbox."""
    [item, *_] = gateway.get(f"{ACME}/notifications/", by="dev-ana").json()
    return f"{ACME}/notifications/{item['id']}/explain/"


def test_an_item_is_explained_by_the_decisions_about_its_activity_and_the_caller(
    gateway: Gateway, ledger: Engine, acme: Acme
) -> None:
    other, activity = a_notification(ledger, comment="Ben?"), a_notification(ledger, comment="Ana?")
    event = a_decision(ledger, activity)
    a_decision(
        ledger, activity, channel="email", outcome="suppressed", rule="snoozed", detail="action 5", minutes_ago=1
    )
    a_decision(ledger, activity, user=11, outcome="suppressed", rule="author")
    a_decision(ledger, other)

    response = gateway.get(item_path(gateway), by="dev-ana")

    assert response.status_code == 200
    [inbox, email] = response.json()["decisions"]
    assert inbox | {"at": ""} == {
        "activity": str(activity), "event": event, "channel": "inbox", "outcome": "delivered", "rule": "mention",
        "detail": "", "explanation": "Notified in the inbox: the comment mentions this person.", "at": "",
    }  # fmt: skip
    assert email | {"at": "", "event": ""} == {
        "activity": str(activity), "event": "", "channel": "email", "outcome": "suppressed", "rule": "snoozed",
        "detail": "action 5", "at": "",
        "explanation": "Not notified by e-mail: the alert rule was snoozed, by this person or for everyone.",
    }  # fmt: skip
    assert email["at"] < inbox["at"]


def test_an_item_without_recorded_decisions_has_an_empty_explanation(
    gateway: Gateway, ledger: Engine, acme: Acme
) -> None:
    a_notification(ledger, comment="Ana?")

    assert gateway.get(item_path(gateway), by="dev-ana").json() == {"decisions": []}


@pytest.mark.parametrize("id_", ["99", "0", "x", "9" * 30])
def test_an_unknown_item_cannot_be_explained(gateway: Gateway, acme: Acme, id_: str) -> None:
    assert gateway.get(f"{ACME}/notifications/{id_}/explain/", by="dev-ana").status_code == 404


def test_somebody_elses_item_cannot_be_explained(gateway: Gateway, ledger: Engine, acme: Acme) -> None:
    a_decision(ledger, a_notification(ledger, comment="Ana?"))

    assert gateway.get(item_path(gateway)).status_code == 404


def test_an_item_that_the_caller_can_no_longer_read_cannot_be_explained(
    gateway: Gateway, ledger: Engine, acme: Acme
) -> None:
    a_decision(ledger, a_notification(ledger, comment="secret"))
    path = item_path(gateway)

    with ledger.begin() as connection:
        connection.exec_driver_sql("UPDATE organizations SET open_membership = false")
        connection.exec_driver_sql("UPDATE team_members SET is_active = false")

    assert gateway.get(path, by="dev-ana").status_code == 404
