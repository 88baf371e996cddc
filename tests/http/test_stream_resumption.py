"""The event stream: resuming without loss."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import pytest
from sqlalchemy.engine import Engine

from gateway.settings import GatewaySettings
from models.database.migrate import migrate
from tests.builders import an_incident
from tests.conftest import Database
from tests.handlers.acme import Acme
from tests.http.gateway_server import Gateway, running_gateway
from tests.http.streams import (
    a_notification,
    backdate,
    broadcaster_of,
    drop_database_sessions,
    last_id_of,
    listening,
    record_event,
    write_event,
)
from tests.waiting import eventually

# Resuming replays events from transactions that overlapped the last event's, in any database on the server.
pytestmark = pytest.mark.usefixtures("quiet_servers")


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


def test_an_item_number_that_was_assigned_again_is_not_mistaken_for_the_last_event(
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
