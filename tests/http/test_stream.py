"""The event stream: access, resuming without loss, and how a stream ends."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy.engine import Connection, Engine

from gateway.settings import GatewaySettings
from gateway.stream.broadcaster import EventBroadcaster
from models.base import new_id
from models.database.migrate import migrate
from models.directory.importer import import_directory
from models.notifications.notification import notifications
from tasks.events import CommentPosted
from tests.builders import an_event, an_incident
from tests.conftest import Database
from tests.handlers.acme import Acme
from tests.http.gateway_server import A_COMMENT, ACME, COMMENTS, Gateway, Worker, running_gateway
from tests.waiting import eventually
from workers.notify.notifier import Notifier

EVENTS = f"{ACME}/events/"

# Resuming replays events from transactions that overlapped the last event's, in any database on the server.
pytestmark = pytest.mark.usefixtures("quiet_servers")


@dataclass
class Listener:
    """An open stream that a background thread reads."""

    response: httpx.Response
    blocks: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def listen(self) -> None:
        block: list[str] = []
        try:
            for line in self.response.iter_lines():
                block.append(line)
                if line == "":
                    self.blocks.append("\n".join(block))
                    block = []
        except httpx.HTTPError:
            pass
        self.ended.set()

    @property
    def events(self) -> list[dict[str, Any]]:
        """The CloudEvents received so far."""
        fields = (dict(line.split(": ", 1) for line in block.splitlines() if ": " in line) for block in self.blocks)
        return [json.loads(each["data"]) for each in fields if "data" in each]

    @property
    def ids(self) -> list[str]:
        return [event["id"] for event in self.events]

    @property
    def text(self) -> str:
        """The whole text received so far."""
        return "\n".join(self.blocks)

    def wait_for(self, *ids: object) -> None:
        """Wait until events with these ids have been received."""
        wanted = {str(id_) for id_ in ids}
        eventually(lambda: wanted <= set(self.ids))

    def wait_for_end(self) -> str:
        """Wait for the end of the stream; return the last block received."""
        assert self.ended.wait(20)
        return self.blocks[-1]


@contextlib.contextmanager
def listening(gateway: Gateway, token: str = "dev-mem", *, path: str = EVENTS, **headers: str) -> Iterator[Listener]:
    """Open a stream for the duration of the block."""
    with gateway.client(token, **headers) as client, client.stream("GET", path) as response:
        assert response.status_code == 200, response.read()
        listener = Listener(response)
        thread = threading.Thread(target=listener.listen, daemon=True)
        thread.start()
        eventually(lambda: listener.blocks)
        yield listener


def last_id_of(listener: Listener) -> str:
    """The last id that the stream has sent, with or without an event."""
    ids = [line.removeprefix("id: ") for line in listener.text.splitlines() if line.startswith("id: ")]
    return ids[-1]


def drop_database_sessions(gateway: Gateway, engine: Engine) -> None:
    """End all sessions of the gateway, and wait until they have ended."""
    sessions = "FROM pg_stat_activity WHERE application_name LIKE 'tocsin gateway%%' AND datname = current_database()"
    with engine.begin() as connection:
        pids = list(connection.exec_driver_sql(f"SELECT pid {sessions} AND pg_terminate_backend(pid)").scalars())

    def have_ended() -> bool:
        with engine.begin() as connection:
            left = connection.exec_driver_sql(f"SELECT pid {sessions} AND pid = ANY(%s)", (pids,)).scalars().all()
        return not left

    eventually(have_ended)


def broadcaster_of(gateway: Gateway) -> EventBroadcaster:
    followed: EventBroadcaster = gateway.app.state.container.broadcaster
    return followed


def incident_of(engine: Engine, organization: int, identifier: int = 1) -> int:
    with engine.connect() as connection:
        id_: int = connection.exec_driver_sql(
            "SELECT id FROM incidents WHERE organization_id = %s AND identifier = %s", (organization, identifier)
        ).scalar_one()
        return id_


@pytest.fixture
def incident(acme: Acme, ledger: Engine) -> int:
    return incident_of(ledger, acme.organizations["acme"])


@pytest.fixture
def other_incident(acme: Acme, ledger: Engine) -> int:
    with ledger.begin() as connection:
        return an_incident(connection, acme.organizations["acme"], projects=[acme.projects["acme", "p2"]], identifier=2)


def write_event(connection: Connection, incident: int, text: str = "Look.") -> UUID:
    """Insert an event about an incident as a worker does, holding the incident's lock; return the event's id."""
    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtextextended('apply:' || %s, 0))", (str(incident),))
    return an_event(connection, incident, CommentPosted(activity=1, comment=text))


def record_event(engine: Engine, incident: int, text: str = "Look.") -> UUID:
    with engine.begin() as connection:
        return write_event(connection, incident, text)


def backdate(engine: Engine, id_: UUID, hours: int) -> UUID:
    """Make an event older, including the time in its id; return the event's new id."""
    older = UUID(int=id_.int - (hours * 3_600_000 << 80))
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE events SET id = %(new)s, body = replace(body::text, %(old)s::text, %(new)s::text)::json,"
            " date_created = date_created - make_interval(hours => %(hours)s) WHERE id = %(old)s",
            {"new": older, "old": id_, "hours": hours},
        )
    return older


def a_notification(connection: Connection, acme: Acme, incident: int, username: str) -> int:
    return int(
        connection.execute(
            notifications.insert()
            .values(
                organization_id=acme.organizations["acme"],
                user_id=acme.users[username],
                incident_id=incident,
                activity_id=7,
                event_id=new_id(),
                event_type="incident.comment_posted",
                reason="mention",
            )
            .returning(notifications.c.id)
        ).scalar_one()
    )


# --- access ------------------------------------------------------------------------------------------------------


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
        # Once another stream has received a later event, the feed has passed this one.
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


# --- resuming ----------------------------------------------------------------------------------------------------


def test_a_stream_resumes_after_the_last_event(
    gateway: Gateway, ledger: Engine, acme: Acme, incident: int, other_incident: int
) -> None:
    ids = [record_event(ledger, each) for each in (incident, other_incident, incident, other_incident)]
    with ledger.begin() as connection:
        a_notification(connection, acme, incident, "mem")
    with listening(gateway, Last_Event_ID=str(ids[1])) as mem:
        ids.append(record_event(ledger, incident))
        mem.wait_for(ids[-1])

        assert [mem.ids[place] for place in (0, 1, 3)] == [str(id_) for id_ in ids[2:]]
        assert mem.events[2]["type"] == "notification.created"
        last = mem.ids[2]
    with listening(gateway, Last_Event_ID=last) as mem:
        mem.wait_for(ids[-1])

        assert mem.ids == [str(ids[-1])]


def test_resuming_after_an_event_replays_only_later_events_of_its_transaction(
    gateway: Gateway, ledger: Engine, incident: int
) -> None:
    with ledger.begin() as connection:
        ids = [write_event(connection, incident) for _ in range(3)]
    with listening(gateway, Last_Event_ID=str(ids[1])) as mem:
        mem.wait_for(ids[2])

        assert mem.ids == [str(ids[2])]


@pytest.mark.parametrize("last", ["unknown", "00000000-0000-7000-8000-000000000000", None])
def test_resuming_after_an_unknown_or_expired_event_replays_the_last_day(
    gateway: Gateway, ledger: Engine, incident: int, last: str | None
) -> None:
    long_ago = backdate(ledger, record_event(ledger, incident), hours=30)
    backdate(ledger, record_event(ledger, incident), hours=25)
    young = [backdate(ledger, record_event(ledger, incident), hours=23), record_event(ledger, incident)]
    with listening(gateway, Last_Event_ID=last or str(long_ago)) as mem:
        mem.wait_for(*young)

        assert mem.ids == [str(id_) for id_ in young]


def test_a_new_stream_receives_only_new_events(gateway: Gateway, ledger: Engine, incident: int) -> None:
    record_event(ledger, incident)
    with listening(gateway) as mem:
        new = record_event(ledger, incident)
        mem.wait_for(new)

        assert mem.ids == [str(new)]


def test_a_replay_longer_than_a_page_is_in_order(gateway: Gateway, ledger: Engine, incident: int) -> None:
    with ledger.begin() as connection:
        first, *ids = [write_event(connection, incident) for _ in range(1100)]
    with listening(gateway, Last_Event_ID=str(first)) as mem:
        mem.wait_for(ids[-1])

        assert mem.ids == [str(id_) for id_ in ids]


def test_an_event_that_commits_late_is_not_missed(
    gateway: Gateway, ledger: Engine, incident: int, other_incident: int
) -> None:
    with listening(gateway) as mem, ledger.connect() as slow:
        late = write_event(slow, incident)
        early = record_event(ledger, other_incident)
        mem.wait_for(early)
        assert str(late) not in mem.ids

        slow.commit()

        mem.wait_for(late)
        assert mem.ids == [str(early), str(late)]


def test_an_event_that_commits_late_is_not_missed_on_resuming(
    gateway: Gateway, ledger: Engine, incident: int, other_incident: int
) -> None:
    with ledger.connect() as slow:
        late = write_event(slow, incident)
        with listening(gateway) as mem:
            early = record_event(ledger, other_incident)
            mem.wait_for(early)

        slow.commit()

    with listening(gateway, Last_Event_ID=str(early)) as mem:
        mem.wait_for(late)


def test_events_of_concurrent_writers_are_streamed_once_each_and_in_order(
    gateway: Gateway, ledger: Engine, acme: Acme
) -> None:
    with ledger.begin() as connection:
        mine = [acme.projects["acme", "p1"]]
        incidents = [
            an_incident(connection, acme.organizations["acme"], projects=mine, identifier=10 + number)
            for number in range(4)
        ]
    written: list[str] = []

    def write(number: int) -> None:
        written.extend(str(record_event(ledger, incidents[(number + turn) % 4])) for turn in range(40))

    with listening(gateway) as mem:
        threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        mem.wait_for(*written)

        assert sorted(mem.ids) == sorted(written)
        for subject in {event["subject"] for event in mem.events}:
            sequences = [int(event["sequence"]) for event in mem.events if event["subject"] == subject]
            assert sequences == list(range(1, len(sequences) + 1))


def test_streams_receive_events_even_without_pubsub(
    acme: Acme, ledger: Engine, incident: int, settings: Callable[..., GatewaySettings]
) -> None:
    with (
        running_gateway(settings(REDIS_URL="redis+socket:///nowhere/valkey.sock")) as gateway,
        listening(gateway) as mem,
    ):
        mem.wait_for(record_event(ledger, incident))


@pytest.mark.parametrize("has_event", [True, False])
def test_a_lost_database_session_sends_readers_back_to_their_last_event(
    gateway: Gateway, ledger: Engine, incident: int, has_event: bool
) -> None:
    before = record_event(ledger, incident)
    with listening(gateway) as mem:
        if has_event:
            before = record_event(ledger, incident)
            mem.wait_for(before)
        drop_database_sessions(gateway, ledger)

        assert mem.wait_for_end() == ": the database was interrupted; reconnect with Last-Event-ID\n"
    assert last_id_of(mem) == str(before)
    missed = record_event(ledger, incident)
    with listening(gateway, Last_Event_ID=last_id_of(mem)) as mem:
        mem.wait_for(missed)

        assert mem.ids == [str(missed)]


def test_a_stream_that_began_before_the_first_event_resumes_with_that_event(
    gateway: Gateway, ledger: Engine, incident: int
) -> None:
    with listening(gateway) as mem:
        start = last_id_of(mem)
    first = record_event(ledger, incident)
    with listening(gateway, Last_Event_ID=start) as mem:
        mem.wait_for(first)

        assert mem.ids == [str(first)]


def test_a_number_that_was_given_to_another_inbox_item_is_not_taken_for_the_last_event(
    gateway: Gateway, ledger: Engine, acme: Acme, incident: int
) -> None:
    with listening(gateway) as mem:
        with ledger.begin() as connection:
            number = a_notification(connection, acme, incident, "mem")
        eventually(lambda: mem.ids)
        last = mem.ids[0]
    with ledger.begin() as connection:
        connection.exec_driver_sql("DELETE FROM notifications")
    missed = record_event(ledger, incident)
    with ledger.begin() as connection:
        a_notification(connection, acme, incident, "mem")
        connection.exec_driver_sql("UPDATE notifications SET id = %s", (number,))
    with listening(gateway, Last_Event_ID=last) as mem:
        mem.wait_for(missed)


def test_many_streams_share_one_query(gateway: Gateway, ledger: Engine, incident: int) -> None:
    queries: list[object] = []
    feed = broadcaster_of(gateway)._feed
    original = feed.read_since
    feed.read_since = lambda *given, **named: queries.append(given) or original(*given, **named)  # type: ignore[method-assign, func-returns-value]
    with contextlib.ExitStack() as streams:
        readers = [streams.enter_context(listening(gateway)) for _ in range(40)]
        queries.clear()
        id_ = record_event(ledger, incident)
        for reader in readers:
            reader.wait_for(id_)

        assert len(queries) < len(readers)


def test_migrating_after_a_restore_from_another_server_lets_streams_resume(
    gateway: Gateway, database: Database, ledger: Engine, incident: int
) -> None:
    last, missed = record_event(ledger, incident), record_event(ledger, incident)
    with ledger.begin() as connection:
        connection.exec_driver_sql("UPDATE events SET written_by = '900000000', written_after = '900000000'")

    migrate(database.engine)

    with listening(gateway, Last_Event_ID=str(last)) as mem:
        mem.wait_for(missed)
        new = record_event(ledger, incident)
        mem.wait_for(new)

        assert mem.ids[-2:] == [str(missed), str(new)]


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
