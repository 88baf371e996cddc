"""Announced at least once and in order, and nothing forgotten, whoever goes away meanwhile."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import pytest

from models.messaging.outbox import PUBLISHING, claim_events
from tasks.broker.topology import NOTIFIER_QUEUE
from tests.brokers import Broker, ValkeyBroker
from tests.builders import an_event, an_incident, an_organization
from tests.conftest import Database
from tests.faults.loop_process import running_loop
from tests.faults.relay_harness import (
    EVENT,
    SUBSCRIBER_QUEUE,
    Subscriber,
    assert_complete,
    insert_events,
    publish_all,
    running_relays,
    unpublished_count,
    writing_events,
)
from tests.waiting import eventually
from workers.event_bus import BusMessage, EventBus
from workers.relay.relay import EVENTS_PER_LINE, Relay
from workers.stack.servers import EmbeddedServers


@pytest.fixture
def subscriber(broker: Broker) -> Subscriber:
    """A service that listens to everything."""
    service = Subscriber(broker)
    service.subscribe("#")
    return service


# --- in order --------------------------------------------------------------------------------------------------


def test_several_relays_publish_each_subject_in_order_despite_late_commits(
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
                an_event(connection, incident, EVENT)
                # The id is made, and others commit before this one does.
                connection.exec_driver_sql(f"SELECT pg_sleep({dice.uniform(0, 0.01)})")

    with (
        running_relays(*(Relay(database.engine, subscriber.settings) for _ in range(3))),
        ThreadPoolExecutor(4) as threads,
    ):
        list(threads.map(write, incidents))
        eventually(lambda: unpublished_count(database.engine) == 0)

    came = subscriber.sequences()
    assert len(came) == lines
    assert all(numbers == list(range(1, length + 1)) for numbers in came.values())


def test_a_subject_with_more_events_than_a_round_is_published_in_order(
    database: Database, subscriber: Subscriber
) -> None:
    length = 2 * EVENTS_PER_LINE + 3
    insert_events(database.engine, subjects=1, per_subject=length)

    publish_all(Relay(database.engine, subscriber.settings))

    assert list(subscriber.sequences().values()) == [list(range(1, length + 1))]


def test_a_subject_locked_by_another_relay_is_skipped(database: Database, subscriber: Subscriber) -> None:
    insert_events(database.engine, subjects=2, per_subject=3)

    with database.engine.begin() as connection:
        in_hand = claim_events(connection, PUBLISHING, subjects=1, per_subject=1)
        publish_all(Relay(database.engine, subscriber.settings))

    assert len(in_hand) == 1
    [(line, numbers)] = subscriber.sequences().items()
    assert line != in_hand[0].subject
    assert numbers == [1, 2, 3]


def test_a_busy_subject_does_not_starve_the_others(database: Database) -> None:
    insert_events(database.engine, subjects=5, per_subject=4)
    seen = []

    with database.engine.begin() as connection:
        after = (0, "")
        for _ in range(5):
            [event] = claim_events(connection, PUBLISHING, subjects=1, per_subject=1, after=after)
            after = (event.organization_id, event.subject)
            seen.append(event.subject)

    assert len(set(seen)) == 5


# --- at least once ---------------------------------------------------------------------------------------------


def test_a_relay_that_dies_between_publishing_and_marking_publishes_again_in_order(
    database: Database, subscriber: Subscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert_events(database.engine, subjects=1, per_subject=5)

    def die(*_: Any) -> None:
        raise SystemExit

    monkeypatch.setattr("workers.relay.relay.mark_processed", die)
    with pytest.raises(SystemExit):
        Relay(database.engine, subscriber.settings).publish_batch()
    monkeypatch.undo()

    publish_all(Relay(database.engine, subscriber.settings))

    assert [event["sequence"][-1] for event in subscriber.received()] == list("1234512345")


def test_a_relay_killed_under_load_loses_nothing_and_keeps_the_order(
    database: Database, subscriber: Subscriber
) -> None:
    insert_events(database.engine, subjects=300, per_subject=5)

    for _ in range(4):
        with running_loop("relay", database_url=database.url, broker_url=subscriber.broker.url) as process:
            before = unpublished_count(database.engine)
            eventually(lambda before=before: unpublished_count(database.engine) < before or before == 0)
            process.kill()
    with running_loop("relay", database_url=database.url, broker_url=subscriber.broker.url):
        eventually(lambda: unpublished_count(database.engine) == 0)

    assert_complete(subscriber, subjects=300, per_subject=5)


def test_a_broker_restart_under_load_loses_nothing(database: Database, subscriber: Subscriber) -> None:
    with running_relays(Relay(database.engine, subscriber.settings)):
        with writing_events(database.engine) as how_many_lines:
            eventually(lambda: subscriber.broker.depth(SUBSCRIBER_QUEUE) >= 50)
            subscriber.broker.stop()
            eventually(lambda: unpublished_count(database.engine) >= 50)
            subscriber.broker.start()
        eventually(lambda: unpublished_count(database.engine) == 0)

    assert_complete(subscriber, subjects=how_many_lines(), per_subject=5)


def test_events_wait_during_a_broker_outage(database: Database, broker: Broker) -> None:
    insert_events(database.engine, subjects=3, per_subject=2)
    relay = Relay(database.engine, broker.settings)
    broker.stop()

    with pytest.raises(Exception, match=r".+"):
        relay.publish_batch()

    assert unpublished_count(database.engine) == 6
    broker.start()
    publish_all(relay)
    assert unpublished_count(database.engine) == 0


def test_a_postgresql_restart_under_load_loses_nothing(
    database: Database, subscriber: Subscriber, alone: EmbeddedServers
) -> None:
    insert_events(database.engine, subjects=100, per_subject=10)

    with running_loop("relay", database_url=database.url, broker_url=subscriber.broker.url) as process:
        alone.kill_postgres()
        alone.start_postgres()
        database.engine.dispose()
        insert_events(database.engine, subjects=10, per_subject=10)
        eventually(lambda: unpublished_count(database.engine) == 0)
        assert process.poll() is None

    assert_complete(subscriber, subjects=110, per_subject=10)


# --- what lies on the broker -----------------------------------------------------------------------------------


def test_a_message_is_the_cloud_event_routed_by_its_type(database: Database, subscriber: Subscriber) -> None:
    insert_events(database.engine, subjects=1, per_subject=1)

    publish_all(Relay(database.engine, subscriber.settings))

    [event] = subscriber.received()
    [message] = subscriber.messages
    assert message.content_type == "application/json"
    assert message.exchange == "tocsin.events"
    assert message.routing_key == event["type"]
    assert event["specversion"] == "1.0"
    assert event["data"]["projects"] == ["backend"]


def test_on_valkey_an_unread_queue_keeps_only_the_newest_events(valkey: ValkeyBroker) -> None:
    subscriber = Subscriber(valkey)
    subscriber.subscribe("#")
    bus = EventBus(valkey.settings, max_unread=100)

    for start in (0, 150):
        bus.publish([BusMessage("incident.opened", json.dumps(n)) for n in range(start, start + 150)])

    assert subscriber.received() == list(range(200, 300))


def test_a_queue_receives_only_the_types_it_is_bound_to(broker: Broker) -> None:
    subscriber = Subscriber(broker)
    subscriber.subscribe("command.*")

    EventBus(broker.settings).publish([BusMessage("incident.opened", "1"), BusMessage("command.dead", "2")])

    assert subscriber.received() == [2]


def test_the_notifiers_queue_is_declared_again_after_a_broker_wipe(broker: Broker) -> None:
    bus = EventBus(broker.settings)
    bus.publish([BusMessage("incident.opened", "1")])
    broker.delete_queues()

    bus.publish([BusMessage("incident.opened", "2")])

    assert broker.depth(NOTIFIER_QUEUE) == 1


# --- the sweep -------------------------------------------------------------------------------------------------


# --- what the stories lean on ----------------------------------------------------------------------------------
