"""The relay publishes every event at least once and in order, through crashes and outages."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from random import Random
from typing import Any

import pytest
from sqlalchemy.engine import Engine

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
from workers.relay.event_bus import EventBus
from workers.relay.relay import EVENTS_PER_SUBJECT, Relay
from workers.relay.sent_batch import BusMessage
from workers.stack.servers import EmbeddedServers


@pytest.fixture
def subscriber(broker: Broker) -> Subscriber:
    """A service that subscribes to all events."""
    service = Subscriber(broker)
    service.subscribe("#")
    return service


# --- order -------------------------------------------------------------------------------------------------------


def test_several_relays_publish_each_subject_in_order_despite_late_commits(
    database: Database, subscriber: Subscriber
) -> None:
    subjects, per_subject = 12, 30
    with database.engine.begin() as connection:
        organization = an_organization(connection)
        incidents = [an_incident(connection, organization) for _ in range(subjects)]

    def write(incident: int) -> None:
        rng = Random(incident)
        for _ in range(per_subject):
            with database.engine.begin() as connection:
                an_event(connection, incident, EVENT)
                # The event's id is assigned now, but other transactions commit before this one.
                connection.exec_driver_sql(f"SELECT pg_sleep({rng.uniform(0, 0.01)})")

    with (
        running_relays(*(Relay(database.engine, subscriber.settings) for _ in range(3))),
        ThreadPoolExecutor(4) as threads,
    ):
        list(threads.map(write, incidents))
        eventually(lambda: unpublished_count(database.engine) == 0)

    received = subscriber.sequences()
    assert len(received) == subjects
    assert all(numbers == list(range(1, per_subject + 1)) for numbers in received.values())


def test_a_subject_with_more_events_than_fit_in_a_batch_is_published_in_order(
    database: Database, subscriber: Subscriber
) -> None:
    per_subject = 2 * EVENTS_PER_SUBJECT + 3
    insert_events(database.engine, subjects=1, per_subject=per_subject)

    publish_all(Relay(database.engine, subscriber.settings))

    assert list(subscriber.sequences().values()) == [list(range(1, per_subject + 1))]


def test_a_subject_locked_by_another_relay_is_skipped(database: Database, subscriber: Subscriber) -> None:
    insert_events(database.engine, subjects=2, per_subject=3)

    with database.engine.begin() as connection:
        locked = claim_events(connection, PUBLISHING, subjects=1, per_subject=1)
        publish_all(Relay(database.engine, subscriber.settings))

    assert len(locked) == 1
    [(subject, numbers)] = subscriber.sequences().items()
    assert subject != locked[0].subject
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


# --- at least once -----------------------------------------------------------------------------------------------


def test_events_are_published_again_in_order_if_the_relay_dies_before_marking_them(
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


def test_killing_a_relay_under_load_loses_no_event_and_keeps_the_order(
    database: Database, subscriber: Subscriber
) -> None:
    insert_events(database.engine, subjects=300, per_subject=5)

    for _ in range(4):
        with running_loop("relay", database_url=database.url, broker_url=subscriber.broker.url) as process:
            before = unpublished_count(database.engine)
            eventually(partial(has_progressed, database.engine, before))
            process.kill()
    with running_loop("relay", database_url=database.url, broker_url=subscriber.broker.url):
        eventually(lambda: unpublished_count(database.engine) == 0)

    assert_complete(subscriber, subjects=300, per_subject=5)


def test_a_broker_restart_under_load_loses_no_event(database: Database, subscriber: Subscriber) -> None:
    with running_relays(Relay(database.engine, subscriber.settings)):
        with writing_events(database.engine) as subject_count:
            eventually(lambda: subscriber.broker.depth(SUBSCRIBER_QUEUE) >= 50)
            subscriber.broker.stop()
            eventually(lambda: unpublished_count(database.engine) >= 50)
            subscriber.broker.start()
        eventually(lambda: unpublished_count(database.engine) == 0)

    assert_complete(subscriber, subjects=subject_count(), per_subject=5)


def test_events_stay_unpublished_during_a_broker_outage_and_are_published_afterwards(
    database: Database, broker: Broker
) -> None:
    insert_events(database.engine, subjects=3, per_subject=2)
    relay = Relay(database.engine, broker.settings)
    broker.stop()

    with pytest.raises(Exception, match=r".+"):
        relay.publish_batch()

    assert unpublished_count(database.engine) == 6
    broker.start()
    publish_all(relay)
    assert unpublished_count(database.engine) == 0


def test_a_postgresql_restart_under_load_loses_no_event(
    database: Database, subscriber: Subscriber, quiet_servers: EmbeddedServers
) -> None:
    insert_events(database.engine, subjects=100, per_subject=10)

    with running_loop("relay", database_url=database.url, broker_url=subscriber.broker.url) as process:
        quiet_servers.kill_postgres()
        quiet_servers.start_postgres()
        database.engine.dispose()
        insert_events(database.engine, subjects=10, per_subject=10)
        eventually(lambda: unpublished_count(database.engine) == 0)
        assert process.poll() is None

    assert_complete(subscriber, subjects=110, per_subject=10)


# --- messages on the broker --------------------------------------------------------------------------------------


def test_a_message_is_a_cloud_event_with_its_type_as_the_routing_key(
    database: Database, subscriber: Subscriber
) -> None:
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


def test_a_queue_receives_only_the_event_types_it_is_bound_to(broker: Broker) -> None:
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


def has_progressed(engine: Engine, before: int) -> bool:
    return before == 0 or unpublished_count(engine) < before
