"""Announced at least once and in order, and nothing forgotten, whoever goes away meanwhile."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import Any

import pytest
from kombu import Queue
from sqlalchemy import insert, text, update
from sqlalchemy.engine import Connection, Engine

from models.enums import Lane
from models.messaging.command_ledger import commands, idempotency_keys
from models.messaging.outbox import PUBLISHING, claim_events
from tasks.app import make_app
from tasks.broker import hints
from tasks.broker.hint_publisher import HintPublisher
from tasks.broker.topology import EVENTS_EXCHANGE, NOTIFIER_QUEUE, declare
from tasks.events import IncidentOpened
from tasks.settings import BrokerSettings
from tests.brokers import QUORUM_ARGUMENTS, Broker, ReceivedMessage, ValkeyBroker
from tests.builders import an_accepted_command, an_event, an_incident, an_organization
from tests.conftest import Database
from tests.faults.loops import running_loop
from tests.waiting import eventually
from workers.event_bus import BusMessage, EventBus
from workers.relay.relay import EVENTS_PER_LINE, Relay
from workers.relay.sweeper import Sweeper
from workers.stack.servers import EmbeddedServers

SUBSCRIBER = "another.service"
NEWS = IncidentOpened(projects=("backend",))


@dataclass
class Subscriber:
    """Another service, with a queue of its own."""

    broker: Broker
    messages: list[ReceivedMessage] = field(default_factory=list)

    @property
    def settings(self) -> BrokerSettings:
        return self.broker.settings

    def subscribe(self, routing_key: str, **limits: object) -> None:
        """Ask for these types; ``limits`` are further arguments of the queue."""
        arguments = QUORUM_ARGUMENTS | limits
        with self.broker.connection() as connection:
            declare(connection)
            queue = Queue(SUBSCRIBER, EVENTS_EXCHANGE, routing_key=routing_key, queue_arguments=arguments)
            queue(connection.default_channel).declare()

    def received(self) -> list[Any]:
        """The events that came, in their order."""
        self.messages += self.broker.receive_all(SUBSCRIBER)
        return [message.payload for message in self.messages]

    def sequences(self) -> dict[str, list[int]]:
        """The sequence numbers of every line in the order they came."""
        lines: dict[str, list[int]] = defaultdict(list)
        for event in self.received():
            lines[event["subject"]].append(int(event["sequence"]))
        return lines


@pytest.fixture
def subscriber(broker: Broker) -> Subscriber:
    """A service that listens to everything."""
    service = Subscriber(broker)
    service.subscribe("#")
    return service


# --- in order --------------------------------------------------------------------------------------------------


def test_several_relays_announce_every_line_in_its_order_while_others_commit_late(
    database: Database, subscriber: Subscriber
) -> None:
    lines, length = 12, 30
    with database.engine.begin() as connection:
        organization = an_organization(connection)
        incidents = [an_incident(connection, organization) for _ in range(lines)]

    def write(incident: int) -> None:
        dice = Random(incident)
        for _ in range(length):
            with database.engine.begin() as connection:
                an_event(connection, incident, NEWS)
                # The id is made, and others commit before this one does.
                connection.exec_driver_sql(f"SELECT pg_sleep({dice.uniform(0, 0.01)})")

    with (
        going(*(Relay(database.engine, subscriber.settings) for _ in range(3))),
        ThreadPoolExecutor(4) as threads,
    ):
        list(threads.map(write, incidents))
        eventually(lambda: unannounced(database.engine) == 0)

    came = subscriber.sequences()
    assert len(came) == lines
    assert all(numbers == list(range(1, length + 1)) for numbers in came.values())


def test_a_line_longer_than_a_round_is_announced_in_order(database: Database, subscriber: Subscriber) -> None:
    length = 2 * EVENTS_PER_LINE + 3
    given_events(database.engine, lines=1, length=length)

    announce_all(Relay(database.engine, subscriber.settings))

    assert list(subscriber.sequences().values()) == [list(range(1, length + 1))]


def test_a_line_that_another_relay_has_in_hand_is_left_to_it(database: Database, subscriber: Subscriber) -> None:
    given_events(database.engine, lines=2, length=3)

    with database.engine.begin() as connection:
        in_hand = claim_events(connection, PUBLISHING, subjects=1, per_subject=1)
        announce_all(Relay(database.engine, subscriber.settings))

    assert len(in_hand) == 1
    [(line, numbers)] = subscriber.sequences().items()
    assert line != in_hand[0].subject
    assert numbers == [1, 2, 3]


def test_however_much_waits_on_one_line_the_others_get_their_turn(database: Database) -> None:
    given_events(database.engine, lines=5, length=4)
    seen = []

    with database.engine.begin() as connection:
        after = (0, "")
        for _ in range(5):
            [event] = claim_events(connection, PUBLISHING, subjects=1, per_subject=1, after=after)
            after = (event.organization_id, event.subject)
            seen.append(event.subject)

    assert len(set(seen)) == 5


# --- at least once ---------------------------------------------------------------------------------------------


def test_a_relay_that_dies_between_publishing_and_marking_announces_again_in_order(
    database: Database, subscriber: Subscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_events(database.engine, lines=1, length=5)

    def die(*_: Any) -> None:
        raise SystemExit

    monkeypatch.setattr("workers.relay.relay.mark_processed", die)
    with pytest.raises(SystemExit):
        Relay(database.engine, subscriber.settings).publish_batch()
    monkeypatch.undo()

    announce_all(Relay(database.engine, subscriber.settings))

    assert [event["sequence"][-1] for event in subscriber.received()] == list("1234512345")


def test_a_relay_killed_under_load_loses_nothing_and_keeps_the_order(
    database: Database, subscriber: Subscriber
) -> None:
    given_events(database.engine, lines=300, length=5)

    for _ in range(4):
        with running_loop("relay", database_url=database.url, broker_url=subscriber.broker.url) as process:
            before = unannounced(database.engine)
            eventually(lambda before=before: unannounced(database.engine) < before or before == 0)
            process.kill()
    with running_loop("relay", database_url=database.url, broker_url=subscriber.broker.url):
        eventually(lambda: unannounced(database.engine) == 0)

    assert_complete(subscriber, lines=300, length=5)


def test_the_broker_may_restart_under_load(database: Database, subscriber: Subscriber) -> None:
    with going(Relay(database.engine, subscriber.settings)):
        with events_coming(database.engine) as how_many_lines:
            eventually(lambda: subscriber.broker.depth(SUBSCRIBER) >= 50)
            subscriber.broker.stop()
            eventually(lambda: unannounced(database.engine) >= 50)
            subscriber.broker.start()
        eventually(lambda: unannounced(database.engine) == 0)

    assert_complete(subscriber, lines=how_many_lines(), length=5)


def test_with_the_broker_away_events_wait(database: Database, broker: Broker) -> None:
    given_events(database.engine, lines=3, length=2)
    relay = Relay(database.engine, broker.settings)
    broker.stop()

    with pytest.raises(Exception, match=r".+"):
        relay.publish_batch()

    assert unannounced(database.engine) == 6
    broker.start()
    announce_all(relay)
    assert unannounced(database.engine) == 0


def test_postgresql_may_restart_under_load(database: Database, subscriber: Subscriber, alone: EmbeddedServers) -> None:
    given_events(database.engine, lines=100, length=10)

    with running_loop("relay", database_url=database.url, broker_url=subscriber.broker.url) as process:
        alone.kill_postgres()
        alone.start_postgres()
        database.engine.dispose()
        given_events(database.engine, lines=10, length=10)
        eventually(lambda: unannounced(database.engine) == 0)
        assert process.poll() is None

    assert_complete(subscriber, lines=110, length=10)


# --- what lies on the broker -----------------------------------------------------------------------------------


def test_a_message_is_the_cloud_event_under_its_type(database: Database, subscriber: Subscriber) -> None:
    given_events(database.engine, lines=1, length=1)

    announce_all(Relay(database.engine, subscriber.settings))

    [event] = subscriber.received()
    [message] = subscriber.messages
    assert message.content_type == "application/json"
    assert message.exchange == "tocsin.events"
    assert message.routing_key == event["type"]
    assert event["specversion"] == "1.0"
    assert event["data"]["projects"] == ["backend"]


def test_on_valkey_an_unread_queue_keeps_only_the_newest(valkey: ValkeyBroker) -> None:
    subscriber = Subscriber(valkey)
    subscriber.subscribe("#")
    bus = EventBus(valkey.settings, max_unread=100)

    for start in (0, 150):
        bus.publish([BusMessage("incident.opened", json.dumps(n)) for n in range(start, start + 150)])

    assert subscriber.received() == list(range(200, 300))


def test_a_queue_without_a_consumer_that_asked_for_other_types_gets_nothing(broker: Broker) -> None:
    subscriber = Subscriber(broker)
    subscriber.subscribe("command.*")

    EventBus(broker.settings).publish([BusMessage("incident.opened", "1"), BusMessage("command.dead", "2")])

    assert subscriber.received() == [2]


def test_after_the_broker_was_wiped_the_notifiers_queue_is_back(broker: Broker) -> None:
    bus = EventBus(broker.settings)
    bus.publish([BusMessage("incident.opened", "1")])
    broker.delete_queues()

    bus.publish([BusMessage("incident.opened", "2")])

    assert broker.depth(NOTIFIER_QUEUE) == 1


# --- the sweep -------------------------------------------------------------------------------------------------


def test_a_command_whose_hint_was_wiped_is_hinted_at_again(database: Database, broker: Broker) -> None:
    with database.engine.begin() as connection:
        given_forgotten(connection, "incident:1:7")
        given_forgotten(connection, "org:1", lane=Lane.BULK)
    broker.delete_queues()

    with going(Relay(database.engine, broker.settings)):
        eventually(lambda: hinted(broker, Lane.COMMANDS) >= {"incident:1:7"})
        eventually(lambda: hinted(broker, Lane.BULK) >= {"org:1"})
        broker.delete_queues()
        eventually(lambda: hinted(broker, Lane.COMMANDS) >= {"incident:1:7"})


def test_a_young_command_is_not_forgotten(database: Database, sweeper: Sweeper) -> None:
    with database.engine.begin() as connection:
        an_accepted_command(connection)

    assert sweeper.sweep() == []


def test_a_command_is_hinted_at_when_its_back_off_is_over(database: Database, sweeper: Sweeper) -> None:
    with database.engine.begin() as connection:
        an_accepted_command(connection, subject="org:1", retry_in=timedelta(seconds=-1))
        an_accepted_command(connection, subject="org:2", retry_in=timedelta(seconds=60))

    assert sweeper.sweep() == [(Lane.COMMANDS, "org:1")]


def test_what_was_hinted_at_is_left_alone_for_a_while(database: Database, sweeper: Sweeper) -> None:
    with database.engine.begin() as connection:
        given_forgotten(connection, "org:1")
    assert sweeper.sweep() == [(Lane.COMMANDS, "org:1")]

    with database.engine.begin() as connection:
        given_forgotten(connection, "org:2")

    assert sweeper.sweep() == [(Lane.COMMANDS, "org:2")]


def test_one_relay_sweeps_at_a_time(database: Database, sweeper: Sweeper) -> None:
    with database.engine.begin() as connection:
        given_forgotten(connection, "org:1")

    with database.engine.begin() as other:
        other.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtextextended('sweep', 0))")
        assert sweeper.sweep() == []

    assert sweeper.sweep() == [(Lane.COMMANDS, "org:1")]


def test_keys_are_forgotten_after_two_days(database: Database, sweeper: Sweeper) -> None:
    with database.engine.begin() as connection:
        for key, hours in (("old", 49), ("young", 47)):
            connection.execute(
                insert(idempotency_keys).values(
                    caller="user:1",
                    key=key,
                    request_hash="",
                    command_ids=[],
                    date_created=text(f"now() - interval '{hours} hours'"),
                )
            )

    assert sweeper.prune() == 1

    with database.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT key FROM idempotency_keys").scalars().all() == ["young"]


# --- what the stories lean on ----------------------------------------------------------------------------------


@pytest.fixture
def sweeper(database: Database) -> Sweeper:
    """A sweeper whose hints go nowhere."""
    return Sweeper(database.engine, HintPublisher(make_app(BrokerSettings(BROKER_URL="redis+socket:///nowhere"))))


def given_events(engine: Engine, *, lines: int, length: int) -> None:
    with engine.begin() as connection:
        organization = an_organization(connection)
        for _ in range(lines):
            incident = an_incident(connection, organization, projects=[])
            for _ in range(length):
                an_event(connection, incident, NEWS)


@contextmanager
def events_coming(engine: Engine) -> Iterator[Callable[[], int]]:
    """While the block lasts lines of five events are written; afterwards what it yields says how many lines."""
    enough = threading.Event()

    def write() -> int:
        lines = 0
        while not enough.wait(0.02):
            given_events(engine, lines=5, length=5)
            lines += 5
        return lines

    with ThreadPoolExecutor(1) as threads:
        written = threads.submit(write)
        try:
            yield written.result
        finally:
            enough.set()


def given_forgotten(connection: Connection, subject: str, *, lane: Lane = Lane.COMMANDS) -> None:
    command = an_accepted_command(connection, subject=subject, lane=lane)
    connection.execute(
        update(commands).where(commands.c.id == command).values(accepted_at=text("now() - interval '10 seconds'"))
    )


def announce_all(relay: Relay) -> None:
    while relay.publish_batch():
        pass


def unannounced(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM events WHERE announced_at IS NULL").scalar_one())


def assert_complete(subscriber: Subscriber, *, lines: int, length: int) -> None:
    """Every line is whole; without what came twice it is in order."""
    came = subscriber.sequences()
    assert len(came) == lines
    assert all(list(dict.fromkeys(numbers)) == list(range(1, length + 1)) for numbers in came.values())


@contextmanager
def going(*relays: Relay) -> Iterator[None]:
    """The relays run in threads, and have begun."""
    stop = threading.Event()
    begun = [threading.Event() for _ in relays]
    threads = [
        threading.Thread(target=relay.run, args=(stop, event.set)) for relay, event in zip(relays, begun, strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        assert all(event.wait(10) for event in begun)
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def hinted(broker: Broker, lane: Lane) -> set[str]:
    """The subjects that hints on this lane's queue name."""
    calls = [message.payload for message in broker.receive_all(lane.value)]
    return {subject for args, _, _ in calls for subject in hints.Hint.parse(args).subjects}
