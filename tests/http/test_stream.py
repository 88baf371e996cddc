"""The event stream: access, and how a stream ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.engine import Engine

from gateway.settings import GatewaySettings
from models.directory.importer import import_directory
from tasks.events import NotificationCreated
from tests.builders import an_incident
from tests.conftest import Database
from tests.handlers.acme import Acme
from tests.http.gateway_server import A_COMMENT, ACME, COMMENTS, Gateway, Worker, running_gateway
from tests.http.streams import (
    EVENTS,
    Listener,
    a_notification,
    broadcaster_of,
    incident_of,
    listening,
    record_event,
    write_event,
)
from tests.waiting import eventually
from workers.notify.notifier import Notifier

# Resuming replays events from transactions that overlapped the last event's, in any database on the server.
pytestmark = pytest.mark.usefixtures("quiet_servers")


def test_an_event_is_sent_as_a_cloud_event_with_its_id_and_type(
    gateway: Gateway, ledger: Engine, incident: int
) -> None:
    with listening(gateway) as mem:
        id_ = record_event(ledger, incident, "Ünusual\nlines")
        mem.wait_for(id_)

        assert mem.response.headers["Content-Type"] == "text/event-stream"
        assert mem.blocks[-1].startswith(f"id: {id_}\nevent: incident.comment_posted\ndata: {{")
        assert mem.events[0]["data"]["activity"]["comment"] == "Ünusual\nlines"
        assert mem.events[0]["subject"] == "incidents/1"


def test_a_comment_posted_over_http_is_streamed(gateway: Gateway, busy_worker: Worker) -> None:
    with listening(gateway) as ana:
        command = gateway.post(COMMENTS, A_COMMENT).headers["Command-Id"]

        eventually(lambda: command in [event["data"]["command"] for event in ana.events])


def test_events_of_inaccessible_incidents_are_not_streamed(gateway: Gateway, ledger: Engine, acme: Acme) -> None:
    closed = "/api/0/organizations/closed/events/"
    inaccessible = incident_of(ledger, acme.organizations["closed"])
    accessible = an_incident_of_another_project(ledger, acme)
    with listening(gateway, "dev-mem", path=closed) as mem, listening(gateway, "dev-ana", path=closed) as ana:
        hidden, shown = record_event(ledger, inaccessible), record_event(ledger, accessible)

        ana.wait_for(hidden)
        mem.wait_for(shown)
        assert mem.ids == [str(shown)]


def test_access_is_also_checked_when_a_stream_resumes(gateway: Gateway, ledger: Engine, acme: Acme) -> None:
    closed = "/api/0/organizations/closed/events/"
    inaccessible = incident_of(ledger, acme.organizations["closed"])
    accessible = an_incident_of_another_project(ledger, acme)
    record_event(ledger, inaccessible)
    shown = record_event(ledger, accessible)
    with listening(gateway, "dev-mem", path=closed, Last_Event_ID="unknown") as mem:
        mem.wait_for(shown)

        assert mem.ids == [str(shown)]


def an_incident_of_another_project(ledger: Engine, acme: Acme) -> int:
    """Insert an incident on a project that Mem, but not Ana, can access; return the incident's id."""
    with ledger.begin() as connection:
        import_directory(
            connection,
            {
                "projects": [{"organization": "closed", "slug": "c2"}],
                "teams": [{"organization": "closed", "slug": "tm", "projects": ["c2"]}],
                "members": [
                    {"organization": "closed", "user": "mem", "teams": ["tm"]},
                    {"organization": "closed", "user": "ana", "role": "member", "teams": ["tc"]},
                    {"organization": "closed", "user": "ben", "role": "owner"},
                ],
            },
        )
        project = connection.exec_driver_sql("SELECT id FROM projects WHERE slug = 'c2'").scalar_one()
        return an_incident(connection, acme.organizations["closed"], projects=[project], identifier=2)


def test_a_notification_is_streamed_only_to_its_recipient(
    gateway: Gateway, ledger: Engine, acme: Acme, incident: int
) -> None:
    with listening(gateway, "dev-mem") as mem, listening(gateway, "dev-ana") as ana:
        with ledger.begin() as connection:
            number = a_notification(connection, acme, incident, "ana")
        marker = record_event(ledger, incident)

        mem.wait_for(marker)
        ana.wait_for(marker)
        assert mem.ids == [str(marker)]
        notification = ana.events[0]
        assert (notification["type"], notification["subject"]) == ("notification.created", f"notifications/{number}")
        inbox = gateway.get(f"{ACME}/notifications/", by="dev-ana").json()
        assert notification["data"]["notification"] == inbox[0]
        assert UUID(notification["id"]).version == 7


def test_a_mention_is_streamed_as_a_notification(
    gateway: Gateway, database: Database, busy_worker: Worker, settings: Callable[..., GatewaySettings]
) -> None:
    notifier = Notifier(database.engine, settings())
    with listening(gateway, "dev-ana") as ana:
        gateway.post(COMMENTS, {"comment": "Ana?", "mentions": ["user:12"]})
        while notifier.plan_batch():
            pass

        eventually(lambda: "notification.created" in [event["type"] for event in ana.events])
        assert ana.events[-1]["data"]["notification"]["text"] == "Ana?"


def test_a_stronger_reason_for_an_item_already_read_is_streamed(
    gateway: Gateway, database: Database, busy_worker: Worker, settings: Callable[..., GatewaySettings]
) -> None:
    notifier = Notifier(database.engine, settings())
    gateway.post(f"{ACME}/incidents/1/subscriptions/", by="dev-ana")
    with listening(gateway, "dev-ana") as ana:
        comment = gateway.post(COMMENTS, A_COMMENT).json()["id"]
        while notifier.plan_batch():
            pass
        first = eventually(lambda: notifications_of(ana))
        gateway.post(f"{ACME}/notifications/read/", {"upTo": first[0]["id"]}, by="dev-ana")

        with gateway.client() as mem:
            mem.put(f"{COMMENTS}{comment}/", json={"comment": "Ana?", "mentions": ["user:12"]})
        while notifier.plan_batch():
            pass

        eventually(lambda: [each["reason"] for each in notifications_of(ana)] == ["subscribed", "mention"])
        assert notifications_of(ana)[1] == gateway.get(f"{ACME}/notifications/?unread=1", by="dev-ana").json()[0]


def test_an_api_key_receives_incident_events(gateway: Gateway, ledger: Engine, incident: int) -> None:
    with listening(gateway, "dev-key") as key:
        key.wait_for(record_event(ledger, incident))


def test_no_incident_events_are_streamed_without_the_incidents_feature(
    gateway: Gateway, ledger: Engine, acme: Acme
) -> None:
    plain = incident_of(ledger, acme.organizations["plain"])
    with listening(gateway, path="/api/0/organizations/plain/events/", Last_Event_ID="unknown") as mem:
        broadcaster_of(gateway).heartbeat_seconds = 0.05
        record_event(ledger, plain)
        # Once another stream has received a later event, the feed has processed this one.
        with listening(gateway) as elsewhere:
            elsewhere.wait_for(record_event(ledger, incident_of(ledger, acme.organizations["acme"])))

        assert mem.events == []


@pytest.mark.parametrize(
    ("token", "path", "status"),
    [
        ("nobody", EVENTS, 401),
        ("dev-out", EVENTS, 403),
        ("dev-mem", "/api/0/organizations/nowhere/events/", 404),
        ("dev-mem", f"{EVENTS}?incident=99", 404),
        ("dev-mem", f"{EVENTS}?incident=one", 404),
        ("dev-mem", "/api/0/organizations/closed/events/?incident=1", 403),
        ("dev-mem", "/api/0/organizations/plain/events/?incident=1", 404),
    ],
)
def test_callers_who_may_not_follow_are_refused_immediately(
    gateway: Gateway, token: str, path: str, status: int
) -> None:
    assert gateway.get(path, by=token).status_code == status


def test_a_head_request_ends_immediately(gateway: Gateway) -> None:
    with gateway.client() as client:
        response = client.head(EVENTS)

    assert (response.status_code, response.content) == (200, b"")
    eventually(lambda: broadcaster_of(gateway).stream_count == 0)


def test_a_single_incident_can_be_followed(
    gateway: Gateway, ledger: Engine, acme: Acme, incident: int, other_incident: int
) -> None:
    before = record_event(ledger, incident)
    first = record_event(ledger, other_incident)
    with listening(gateway, path=f"{EVENTS}?incident=2", Last_Event_ID=str(before)) as mem:
        record_event(ledger, incident)
        with ledger.begin() as connection:
            a_notification(connection, acme, incident, "mem")
        second = record_event(ledger, other_incident)
        mem.wait_for(second)

        assert mem.ids == [str(first), str(second)]


# --- the end of a stream -----------------------------------------------------------------------------------------


def test_an_idle_stream_sends_heartbeats(gateway: Gateway) -> None:
    broadcaster_of(gateway).heartbeat_seconds = 0.05
    with listening(gateway) as mem:
        eventually(lambda: mem.text.count(":\n") >= 3)


def test_a_revoked_token_ends_an_idle_stream(gateway: Gateway, ledger: Engine) -> None:
    broadcaster_of(gateway).heartbeat_seconds = 0.05
    with listening(gateway) as mem:
        with ledger.begin() as connection:
            connection.exec_driver_sql("UPDATE tokens SET revoked_at = now()")

        assert mem.wait_for_end() == ": you no longer have access to this stream\n"


def test_a_former_member_receives_no_later_events(gateway: Gateway, ledger: Engine, incident: int) -> None:
    broadcaster_of(gateway).caller_ttl_seconds = 0
    with listening(gateway) as mem:
        with ledger.begin() as connection:
            import_directory(connection, {"members": [{"organization": "acme", "user": "mem", "role": None}]})
        record_event(ledger, incident)

        assert mem.wait_for_end() == ": you no longer have access to this stream\n"
        assert mem.events == []


def test_leaving_a_team_ends_access_to_its_projects(gateway: Gateway, ledger: Engine, acme: Acme) -> None:
    broadcaster_of(gateway).caller_ttl_seconds = 0
    closed = "/api/0/organizations/closed/events/"
    accessible = an_incident_of_another_project(ledger, acme)
    with listening(gateway, "dev-mem", path=closed) as mem, listening(gateway, "dev-ben", path=closed) as ben:
        seen = record_event(ledger, accessible)
        mem.wait_for(seen)
        with ledger.begin() as connection:
            import_directory(connection, {"members": [{"organization": "closed", "user": "mem", "teams": []}]})
        ben.wait_for(record_event(ledger, accessible))

        assert mem.ids == [str(seen)]


def test_a_slow_reader_is_disconnected_with_a_reason(gateway: Gateway, ledger: Engine, incident: int) -> None:
    broadcaster_of(gateway).max_queued_frames = 5
    with gateway.client() as client, client.stream("GET", EVENTS) as response:
        assert response.status_code == 200
        for _ in range(20):
            with ledger.begin() as connection:
                for _ in range(20):
                    write_event(connection, incident, "long " * 12_000)

        text = response.read().decode()

    assert text.endswith(": the client reads too slowly; reconnect with Last-Event-ID\n\n")


def test_a_reader_disconnected_by_a_burst_resumes_without_loss(gateway: Gateway, ledger: Engine, incident: int) -> None:
    broadcaster_of(gateway).max_rows_per_poll = 2
    with listening(gateway) as mem:
        first = record_event(ledger, incident)
        mem.wait_for(first)
        with ledger.begin() as connection:
            rest = [write_event(connection, incident) for _ in range(3)]
        assert mem.wait_for_end() == ": too many events at once; reconnect with Last-Event-ID\n"
    with listening(gateway, Last_Event_ID=str(first)) as mem:
        mem.wait_for(*rest)

        assert mem.ids == [str(id_) for id_ in rest]


def test_a_gateway_that_stops_ends_its_streams(acme: Acme, settings: Callable[..., GatewaySettings]) -> None:
    with running_gateway(settings()) as gateway, listening(gateway) as mem, listening(gateway, "dev-ana") as ana:
        gateway.stop()

        assert mem.wait_for_end() == ana.wait_for_end() == ": the gateway is stopping\n"


def test_a_disconnected_reader_is_removed(gateway: Gateway) -> None:
    with gateway.client() as client, client.stream("GET", EVENTS):
        assert broadcaster_of(gateway).stream_count == 1
        assert "\ntocsin_streams 1.0\n" in gateway.get("/metrics", by=None).text

    eventually(lambda: broadcaster_of(gateway).stream_count == 0)


def notifications_of(listener: Listener) -> list[dict[str, Any]]:
    """Return the inbox items that the stream has announced so far."""
    return [event["data"]["notification"] for event in listener.events if event["type"] == NotificationCreated.type]
