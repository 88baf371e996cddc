"""The client reads incidents, activities and the inbox as typed values, over all pages of a list."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy.engine import Engine
from tocsin_client import (
    Activity,
    Incident,
    Notification,
    PostComment,
    ReadNotifications,
    Refused,
    SetStatus,
    Subscribe,
)

from tests.client.conftest import Connect
from tests.client.faulty_proxy import DROPPED, faulty_proxy
from tests.handlers.acme import Acme
from tests.http.conftest import opened
from tests.http.gateway_server import Gateway, Worker
from tests.http.incident_list_requests import OpenIncident
from tests.http.test_notifications import a_notification

__all__ = ["opened"]


def test_an_incident_is_read_as_a_typed_value(mem: Any, busy_worker: Worker) -> None:
    mem.post(Subscribe(1))
    mem.post(SetStatus(1, 2))

    incident = mem.incident(1)

    raw = mem.read("incidents/1/")
    assert isinstance(incident, Incident)
    assert (incident.id, incident.number, incident.title) == (raw["id"], "1", raw["title"])
    assert (incident.status, incident.version, incident.projects) == (2, raw["version"], tuple(raw["projects"]))
    assert (incident.is_subscribed, incident.alert_rule) == (True, None)
    assert incident.date_started == datetime.fromisoformat(raw["dateStarted"])
    assert incident.date_closed is not None
    assert incident.date_closed.tzinfo is UTC


def test_an_incident_that_does_not_exist_is_refused(mem: Any) -> None:
    with pytest.raises(Refused, match="404"):
        mem.incident(99)
    with pytest.raises(Refused, match="404"):
        next(iter(mem.activities("1/../2")))


def test_incidents_are_read_over_all_pages_and_only_as_far_as_needed(
    connect: Connect, gateway: Gateway, opened: OpenIncident
) -> None:
    for number in range(220):
        opened(f"number {number}", minutes=number)

    with faulty_proxy(gateway.url, DROPPED) as proxy:
        client = connect(proxy.url)
        titles = [incident.title for incident in client.incidents(title="NUMBER")]
        first = next(iter(client.incidents()))

    assert titles == [f"number {number}" for number in reversed(range(220))]
    assert first.title == "number 219"
    assert (first.has_seen, first.is_subscribed) == (None, None)


def test_incidents_can_be_filtered(mem: Any, opened: OpenIncident) -> None:
    opened("quiet", "p2", minutes=1, status=2)
    opened("loud", minutes=2, status=20, dedup_key="checkout")

    def titles(**filters: Any) -> list[str]:
        return [incident.title for incident in mem.incidents(**filters)]

    assert titles(status="critical") == titles(dedup_key="checkout") == ["loud"]
    assert titles(status="closed", projects=["p1", "p2"]) == ["quiet"]
    assert titles(projects=["p1"], status="open")[0] == "loud"
    assert titles(title="nothing like it") == []


def test_activities_are_read_over_all_pages_in_either_order(mem: Any, busy_worker: Worker) -> None:
    texts = [f"number {number}" for number in range(120)]
    mem.bulk([PostComment(1, text) for text in texts], wait=60).raise_for_refused()
    mem.post(SetStatus(1, 2))

    newest_first = list(mem.activities(1))
    oldest_first = list(mem.activities(1, oldest_first=True))

    assert newest_first == oldest_first[::-1]
    assert [activity.comment for activity in oldest_first if activity.type == 3] == texts
    closed = newest_first[0]
    assert isinstance(closed, Activity)
    assert closed.user is not None
    assert (closed.type, closed.value, closed.user.username, closed.incident) == (2, "2", "mem", "1")


def test_the_inbox_is_read_as_typed_values(
    connect: Connect, gateway: Gateway, ledger: Engine, acme: Acme, busy_worker: Worker
) -> None:
    activities = [a_notification(ledger, comment=f"number {number}") for number in range(3)]
    ana = connect(gateway.url, "dev-ana")

    items = list(ana.inbox())
    ana.post(ReadNotifications(ids=[items[0].id]))

    assert isinstance(items[0], Notification)
    assert [item.text for item in items] == ["number 2", "number 1", "number 0"]
    assert [item.activity_id for item in items] == [str(each) for each in reversed(activities)]
    newest = items[0]
    assert (newest.reason, newest.event_type, newest.incident) == ("mention", "incident.comment_posted", "1")
    assert (newest.author_id, newest.author_name, newest.is_retracted) == ("11", "Mem", False)
    assert newest.link == f"{gateway.url}/organizations/acme/alerts/1/"
    assert [item.id for item in ana.inbox(unread=True)] == [item.id for item in items[1:]]
    assert next(iter(ana.inbox())).date_read is not None


def test_a_service_has_no_inbox(connect: Connect, gateway: Gateway) -> None:
    with pytest.raises(Refused, match="403"):
        next(iter(connect(gateway.url, "dev-bot").inbox()))
