"""Following what happens: what a reader sees, what they get when they come back, and how it ends."""

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
from tests.http.doorway import A_COMMENT, ACME, COMMENTS, Gateway, Worker, running_gateway
from tests.waiting import eventually
from workers.notify.notifier import Notifier

EVENTS = f"{ACME}/events/"

# Who comes back is told again what may have been written at the same time as the last event, be it elsewhere.
pytestmark = pytest.mark.usefixtures("alone")


@dataclass
class Listener:
    """Somebody's open stream, read in the background."""

    answer: httpx.Response
    blocks: list[str] = field(default_factory=list)
    is_over: threading.Event = field(default_factory=threading.Event)

    def listen(self) -> None:
        block: list[str] = []
        try:
            for line in self.answer.iter_lines():
                block.append(line)
                if line == "":
                    self.blocks.append("\n".join(block))
                    block = []
        except httpx.HTTPError:
            pass
        self.is_over.set()

    @property
    def events(self) -> list[dict[str, Any]]:
        """The CloudEvents that came."""
        fields = (dict(line.split(": ", 1) for line in block.splitlines() if ": " in line) for block in self.blocks)
        return [json.loads(each["data"]) for each in fields if "data" in each]

    @property
    def ids(self) -> list[str]:
        return [event["id"] for event in self.events]

    @property
    def said(self) -> str:
        """Everything that came."""
        return "\n".join(self.blocks)

    def hears(self, *ids: object) -> None:
        """Wait until events with these ids have come."""
        wanted = {str(id_) for id_ in ids}
        eventually(lambda: wanted <= set(self.ids))

    def ends(self) -> str:
        """Wait for the end; the last thing that was said."""
        assert self.is_over.wait(20)
        return self.blocks[-1]


@contextlib.contextmanager
def listening(gateway: Gateway, token: str = "dev-mem", *, path: str = EVENTS, **headers: str) -> Iterator[Listener]:
    """An open stream for as long as the block lasts."""
    with gateway.client(token, **headers) as client, client.stream("GET", path) as answer:
        assert answer.status_code == 200, answer.read()
        listener = Listener(answer)
        thread = threading.Thread(target=listener.listen, daemon=True)
        thread.start()
        eventually(lambda: listener.blocks)
        yield listener


def broadcaster_of(gateway: Gateway) -> EventBroadcaster:
    followed: EventBroadcaster = gateway.app.state.services.broadcaster
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


def say(connection: Connection, incident: int, text: str = "Look.") -> UUID:
    """An event of an incident, as a worker would write it: with the incident's lock in hand before it writes."""
    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtextextended('apply:' || %s, 0))", (str(incident),))
    return an_event(connection, incident, CommentPosted(activity=1, comment=text))


def record_event(engine: Engine, incident: int, text: str = "Look.") -> UUID:
    with engine.begin() as connection:
        return say(connection, incident, text)


def age(engine: Engine, id_: UUID, hours: int) -> UUID:
    """Make an event older; its id tells the time too."""
    older = UUID(int=id_.int - (hours * 3_600_000 << 80))
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE events SET id = %(new)s, body = replace(body::text, %(old)s::text, %(new)s::text)::json,"
            " date_created = date_created - make_interval(hours => %(hours)s) WHERE id = %(old)s",
            {"new": older, "old": id_, "hours": hours},
        )
    return older


def an_item(connection: Connection, acme: Acme, incident: int, username: str) -> int:
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


# --- who hears what --------------------------------------------------------------------------------------------


def test_an_event_is_told_in_cloud_event_json_under_its_id_and_type(
    gateway: Gateway, ledger: Engine, incident: int
) -> None:
    with listening(gateway) as mem:
        id_ = record_event(ledger, incident, "Ünusual\nlines")
        mem.hears(id_)

        assert mem.answer.headers["Content-Type"] == "text/event-stream"
        assert mem.blocks[-1].startswith(f"id: {id_}\nevent: incident.comment_posted\ndata: {{")
        assert mem.events[0]["data"]["activity"]["comment"] == "Ünusual\nlines"
        assert mem.events[0]["subject"] == "incidents/1"


def test_a_comment_over_http_is_heard(gateway: Gateway, busy_worker: Worker) -> None:
    with listening(gateway) as ana:
        command = gateway.post(COMMENTS, A_COMMENT).headers["Command-Id"]

        eventually(lambda: command in [event["data"]["command"] for event in ana.events])


def test_who_reaches_no_project_of_an_incident_does_not_hear_of_it(
    gateway: Gateway, ledger: Engine, acme: Acme
) -> None:
    closed = "/api/0/organizations/closed/events/"
    secret = incident_of(ledger, acme.organizations["closed"])
    open_to_mem = given_a_second_project(ledger, acme)
    with listening(gateway, "dev-mem", path=closed) as mem, listening(gateway, "dev-ana", path=closed) as ana:
        hidden, shown = record_event(ledger, secret), record_event(ledger, open_to_mem)

        ana.hears(hidden)
        mem.hears(shown)
        assert mem.ids == [str(shown)]


def test_somebody_who_resumes_is_judged_as_well(gateway: Gateway, ledger: Engine, acme: Acme) -> None:
    closed = "/api/0/organizations/closed/events/"
    secret = incident_of(ledger, acme.organizations["closed"])
    open_to_mem = given_a_second_project(ledger, acme)
    record_event(ledger, secret)
    shown = record_event(ledger, open_to_mem)
    with listening(gateway, "dev-mem", path=closed, Last_Event_ID="unknown") as mem:
        mem.hears(shown)

        assert mem.ids == [str(shown)]


def given_a_second_project(ledger: Engine, acme: Acme) -> int:
    """The incident of a project that Mem reaches; Ana reaches the first one's."""
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


def test_a_notification_is_heard_by_the_one_it_is_for(
    gateway: Gateway, ledger: Engine, acme: Acme, incident: int
) -> None:
    with listening(gateway, "dev-mem") as mem, listening(gateway, "dev-ana") as ana:
        with ledger.begin() as connection:
            number = an_item(connection, acme, incident, "ana")
        marker = record_event(ledger, incident)

        mem.hears(marker)
        ana.hears(marker)
        assert mem.ids == [str(marker)]
        told = ana.events[0]
        assert (told["type"], told["subject"]) == ("notification.created", f"notifications/{number}")
        inbox = gateway.get(f"{ACME}/notifications/", by="dev-ana").json()
        assert told["data"]["notification"] == inbox[0]
        assert UUID(told["id"]).version == 7


def test_a_mention_is_heard_as_a_notification(
    gateway: Gateway, database: Database, busy_worker: Worker, settings: Callable[..., GatewaySettings]
) -> None:
    notifier = Notifier(database.engine, settings())
    with listening(gateway, "dev-ana") as ana:
        gateway.post(COMMENTS, {"comment": "Ana?", "mentions": ["user:12"]})
        while notifier.plan_batch():
            pass

        eventually(lambda: "notification.created" in [event["type"] for event in ana.events])
        assert ana.events[-1]["data"]["notification"]["text"] == "Ana?"


def test_a_key_hears_of_incidents(gateway: Gateway, ledger: Engine, incident: int) -> None:
    with listening(gateway, "dev-key") as key:
        key.hears(record_event(ledger, incident))


def test_without_the_feature_there_are_no_events_of_incidents(gateway: Gateway, ledger: Engine, acme: Acme) -> None:
    plain = incident_of(ledger, acme.organizations["plain"])
    with listening(gateway, path="/api/0/organizations/plain/events/", Last_Event_ID="unknown") as mem:
        broadcaster_of(gateway).heartbeat_seconds = 0.05
        record_event(ledger, plain)
        # One look has passed by when an event of elsewhere, written later, is heard.
        with listening(gateway) as elsewhere:
            elsewhere.hears(record_event(ledger, incident_of(ledger, acme.organizations["acme"])))

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
def test_who_may_not_follow_is_told_at_once(gateway: Gateway, token: str, path: str, status: int) -> None:
    assert gateway.get(path, by=token).status_code == status


def test_asking_for_the_head_alone_ends_at_once(gateway: Gateway) -> None:
    with gateway.client() as client:
        answer = client.head(EVENTS)

    assert (answer.status_code, answer.content) == (200, b"")
    eventually(lambda: broadcaster_of(gateway).stream_count == 0)


def test_one_incident_can_be_followed_by_itself(
    gateway: Gateway, ledger: Engine, acme: Acme, incident: int, other_incident: int
) -> None:
    before = record_event(ledger, incident)
    first = record_event(ledger, other_incident)
    with listening(gateway, path=f"{EVENTS}?incident=2", Last_Event_ID=str(before)) as mem:
        record_event(ledger, incident)
        with ledger.begin() as connection:
            an_item(connection, acme, incident, "mem")
        second = record_event(ledger, other_incident)
        mem.hears(second)

        assert mem.ids == [str(first), str(second)]


# --- nothing is missed -----------------------------------------------------------------------------------------


def test_who_comes_back_goes_on_after_the_last_event(
    gateway: Gateway, ledger: Engine, acme: Acme, incident: int, other_incident: int
) -> None:
    ids = [record_event(ledger, each) for each in (incident, other_incident, incident, other_incident)]
    with ledger.begin() as connection:
        an_item(connection, acme, incident, "mem")
    with listening(gateway, Last_Event_ID=str(ids[1])) as mem:
        ids.append(record_event(ledger, incident))
        mem.hears(ids[-1])

        assert [mem.ids[place] for place in (0, 1, 3)] == [str(id_) for id_ in ids[2:]]
        assert mem.events[2]["type"] == "notification.created"
        last = mem.ids[2]
    with listening(gateway, Last_Event_ID=last) as mem:
        mem.hears(ids[-1])

        assert mem.ids == [str(ids[-1])]


def test_of_one_transaction_only_what_came_after_the_last_event_is_told_again(
    gateway: Gateway, ledger: Engine, incident: int
) -> None:
    with ledger.begin() as connection:
        ids = [say(connection, incident) for _ in range(3)]
    with listening(gateway, Last_Event_ID=str(ids[1])) as mem:
        mem.hears(ids[2])

        assert mem.ids == [str(ids[2])]


@pytest.mark.parametrize("last", ["unknown", "00000000-0000-7000-8000-000000000000", None])
def test_after_an_unknown_event_and_after_one_of_long_ago_all_of_the_last_day_is_told(
    gateway: Gateway, ledger: Engine, incident: int, last: str | None
) -> None:
    long_ago = age(ledger, record_event(ledger, incident), hours=30)
    age(ledger, record_event(ledger, incident), hours=25)
    young = [age(ledger, record_event(ledger, incident), hours=23), record_event(ledger, incident)]
    with listening(gateway, Last_Event_ID=last or str(long_ago)) as mem:
        mem.hears(*young)

        assert mem.ids == [str(id_) for id_ in young]


def test_who_comes_for_the_first_time_hears_only_what_is_new(gateway: Gateway, ledger: Engine, incident: int) -> None:
    record_event(ledger, incident)
    with listening(gateway) as mem:
        new = record_event(ledger, incident)
        mem.hears(new)

        assert mem.ids == [str(new)]


def test_more_than_a_page_is_told_in_order(gateway: Gateway, ledger: Engine, incident: int) -> None:
    with ledger.begin() as connection:
        first, *ids = [say(connection, incident) for _ in range(1100)]
    with listening(gateway, Last_Event_ID=str(first)) as mem:
        mem.hears(ids[-1])

        assert mem.ids == [str(id_) for id_ in ids]


def test_an_event_that_commits_late_is_not_missed(
    gateway: Gateway, ledger: Engine, incident: int, other_incident: int
) -> None:
    with listening(gateway) as mem, ledger.connect() as slow:
        late = say(slow, incident)
        early = record_event(ledger, other_incident)
        mem.hears(early)
        assert str(late) not in mem.ids

        slow.commit()

        mem.hears(late)
        assert mem.ids == [str(early), str(late)]


def test_an_event_that_commits_late_is_not_missed_by_who_was_away(
    gateway: Gateway, ledger: Engine, incident: int, other_incident: int
) -> None:
    with ledger.connect() as slow:
        late = say(slow, incident)
        with listening(gateway) as mem:
            early = record_event(ledger, other_incident)
            mem.hears(early)

        slow.commit()

    with listening(gateway, Last_Event_ID=str(early)) as mem:
        mem.hears(late)


def test_many_writers_at_once_are_told_without_loss_doubles_or_disorder(
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
        mem.hears(*written)

        assert sorted(mem.ids) == sorted(written)
        for subject in {event["subject"] for event in mem.events}:
            sequences = [int(event["sequence"]) for event in mem.events if event["subject"] == subject]
            assert sequences == list(range(1, len(sequences) + 1))


def test_it_works_without_wake_ups(
    acme: Acme, ledger: Engine, incident: int, settings: Callable[..., GatewaySettings]
) -> None:
    with (
        running_gateway(settings(REDIS_URL="redis+socket:///nowhere/valkey.sock")) as gateway,
        listening(gateway) as mem,
    ):
        mem.hears(record_event(ledger, incident))


def test_a_connection_that_the_database_drops_costs_nothing(gateway: Gateway, ledger: Engine, incident: int) -> None:
    with listening(gateway) as mem:
        mem.hears(record_event(ledger, incident))
        with ledger.begin() as connection:
            connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name LIKE 'tocsin gateway%%' AND datname = current_database()"
            )

        mem.hears(record_event(ledger, incident))
        assert len(mem.ids) == 2


def test_many_streams_are_served_by_one_look(gateway: Gateway, ledger: Engine, incident: int) -> None:
    looks: list[object] = []
    desk = broadcaster_of(gateway)._feed
    looking = desk.read_since
    desk.read_since = lambda *given, **named: looks.append(given) or looking(*given, **named)  # type: ignore[method-assign, func-returns-value]
    with contextlib.ExitStack() as streams:
        readers = [streams.enter_context(listening(gateway)) for _ in range(40)]
        looks.clear()
        id_ = record_event(ledger, incident)
        for reader in readers:
            reader.hears(id_)

        assert len(looks) < len(readers)


def test_after_a_restore_from_another_server_migrating_lets_streams_be_taken_up_again(
    gateway: Gateway, database: Database, ledger: Engine, incident: int
) -> None:
    last, owed = record_event(ledger, incident), record_event(ledger, incident)
    with ledger.begin() as connection:
        connection.exec_driver_sql("UPDATE events SET written_by = '900000000', written_after = '900000000'")

    migrate(database.engine)

    with listening(gateway, Last_Event_ID=str(last)) as mem:
        mem.hears(owed)
        new = record_event(ledger, incident)
        mem.hears(new)

        assert mem.ids[-2:] == [str(owed), str(new)]


# --- how it ends -----------------------------------------------------------------------------------------------


def test_a_silent_stream_has_a_heartbeat(gateway: Gateway) -> None:
    broadcaster_of(gateway).heartbeat_seconds = 0.05
    with listening(gateway) as mem:
        eventually(lambda: mem.said.count(":\n") >= 3)


def test_a_revoked_token_ends_a_stream_that_is_silent(gateway: Gateway, ledger: Engine) -> None:
    broadcaster_of(gateway).heartbeat_seconds = 0.05
    with listening(gateway) as mem:
        with ledger.begin() as connection:
            connection.exec_driver_sql("UPDATE tokens SET revoked_at = now()")

        assert mem.ends() == ": you no longer have access to this stream\n"


def test_who_has_left_the_organization_hears_nothing_that_happens_later(
    gateway: Gateway, ledger: Engine, incident: int
) -> None:
    broadcaster_of(gateway).caller_ttl_seconds = 0
    with listening(gateway) as mem:
        with ledger.begin() as connection:
            import_directory(connection, {"members": [{"organization": "acme", "user": "mem", "role": None}]})
        record_event(ledger, incident)

        assert mem.ends() == ": you no longer have access to this stream\n"
        assert mem.events == []


def test_a_team_that_is_left_takes_its_projects_along(gateway: Gateway, ledger: Engine, acme: Acme) -> None:
    broadcaster_of(gateway).caller_ttl_seconds = 0
    closed = "/api/0/organizations/closed/events/"
    open_to_mem = given_a_second_project(ledger, acme)
    with listening(gateway, "dev-mem", path=closed) as mem, listening(gateway, "dev-ben", path=closed) as ben:
        seen = record_event(ledger, open_to_mem)
        mem.hears(seen)
        with ledger.begin() as connection:
            import_directory(connection, {"members": [{"organization": "closed", "user": "mem", "teams": []}]})
        ben.hears(record_event(ledger, open_to_mem))

        assert mem.ids == [str(seen)]


def test_who_reads_too_slowly_is_sent_away_and_told_so(gateway: Gateway, ledger: Engine, incident: int) -> None:
    broadcaster_of(gateway).max_queued_frames = 5
    with gateway.client() as client, client.stream("GET", EVENTS) as answer:
        assert answer.status_code == 200
        for _ in range(20):
            with ledger.begin() as connection:
                for _ in range(20):
                    say(connection, incident, "long " * 12_000)

        said = answer.read().decode()

    assert said.endswith(": the client reads too slowly; reconnect with Last-Event-ID\n\n")


def test_too_much_at_once_is_had_by_coming_back(gateway: Gateway, ledger: Engine, incident: int) -> None:
    broadcaster_of(gateway).max_rows_per_poll = 2
    with listening(gateway) as mem:
        first = record_event(ledger, incident)
        mem.hears(first)
        with ledger.begin() as connection:
            rest = [say(connection, incident) for _ in range(3)]
        assert mem.ends() == ": too many events at once; reconnect with Last-Event-ID\n"
    with listening(gateway, Last_Event_ID=str(first)) as mem:
        mem.hears(*rest)

        assert mem.ids == [str(id_) for id_ in rest]


def test_a_gateway_that_stops_ends_its_streams(acme: Acme, settings: Callable[..., GatewaySettings]) -> None:
    with running_gateway(settings()) as gateway, listening(gateway) as mem, listening(gateway, "dev-ana") as ana:
        gateway.stop()

        assert (mem.ends(), ana.ends()) == (": the gateway is stopping\n", ": the gateway is stopping\n")


def test_who_hangs_up_is_forgotten(gateway: Gateway) -> None:
    with gateway.client() as client, client.stream("GET", EVENTS):
        assert broadcaster_of(gateway).stream_count == 1
        assert "\ntocsin_streams 1.0\n" in gateway.get("/metrics", by=None).text

    eventually(lambda: broadcaster_of(gateway).stream_count == 0)
