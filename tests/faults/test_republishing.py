"""After an outage of the broker, a relay publishes the events again that the outage may have lost."""

from __future__ import annotations

import pytest

from models.base import new_id
from tests.conftest import Database
from tests.faults.outage_proxy import OutageProxy
from tests.faults.relay_harness import (
    SUBSCRIBER_QUEUE,
    Subscriber,
    insert_events,
    publish_all,
    running_relays,
    unpublished_count,
)
from tests.waiting import eventually
from workers.relay.recent_events import RecentEvents
from workers.relay.relay import Relay

pytestmark = pytest.mark.xdist_group("faults")


def lose_messages(subscriber: Subscriber) -> None:
    """Delete the events that the subscriber's queue holds, as a crash of the broker could."""
    with subscriber.broker.connection() as connection:
        connection.default_channel.queue_purge(SUBSCRIBER_QUEUE)


def interrupt(relay: Relay, proxy: OutageProxy) -> None:
    """Interrupt the connection to the broker until the relay has noticed the interruption."""
    proxy.cut()
    eventually(lambda: has_failed(relay))
    proxy.restore()


def has_failed(relay: Relay) -> bool:
    try:
        relay.publish_batch()
    except Exception:
        return True
    return False


def test_events_confirmed_shortly_before_an_outage_are_published_again_in_order(
    database: Database, subscriber: Subscriber, proxy: OutageProxy
) -> None:
    insert_events(database.engine, subjects=3, per_subject=4)
    relay = Relay(database.engine, proxy.settings)
    publish_all(relay)
    lose_messages(subscriber)

    interrupt(relay, proxy)
    publish_all(relay)

    assert unpublished_count(database.engine) == 0
    assert list(subscriber.sequences().values()) == [[1, 2, 3, 4]] * 3


def test_a_relay_without_new_events_notices_an_outage_and_publishes_again(
    database: Database, subscriber: Subscriber, proxy: OutageProxy
) -> None:
    insert_events(database.engine, subjects=3, per_subject=2)
    with running_relays(Relay(database.engine, proxy.settings)):
        eventually(lambda: unpublished_count(database.engine) == 0)
        lose_messages(subscriber)

        proxy.cut()
        proxy.restore()

        eventually(lambda: list(subscriber.sequences().values()) == [[1, 2]] * 3)


def test_events_published_before_the_last_seconds_are_not_published_again(
    database: Database, subscriber: Subscriber, proxy: OutageProxy
) -> None:
    insert_events(database.engine, subjects=1, per_subject=2)
    relay = Relay(database.engine, proxy.settings, recent_events=RecentEvents(seconds=0))
    publish_all(relay)
    insert_events(database.engine, subjects=1, per_subject=3)
    publish_all(relay)

    interrupt(relay, proxy)
    publish_all(relay)

    assert list(subscriber.sequences().values()) == [[1, 2], [1, 2, 3, 1, 2, 3]]


def test_an_outage_of_the_database_publishes_nothing_again(
    database: Database, subscriber: Subscriber, proxy: OutageProxy
) -> None:
    insert_events(database.engine, subjects=2, per_subject=2)
    relay = Relay(database.engine, proxy.settings)
    publish_all(relay)

    with database.engine.connect() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    publish_all(relay)

    assert list(subscriber.sequences().values()) == [[1, 2]] * 2


def test_the_window_ends_when_the_broker_last_responded() -> None:
    now = 100.0
    recent = RecentEvents(10, clock=lambda: now)
    first, second = new_id(), new_id()
    recent.add([first])
    now = 108.0
    recent.add([second])

    recent.move_on(109.0)
    assert recent.ids == [first, second]

    # An hour passes without a response.
    now = 3700.0
    recent.move_on(109.0)
    assert recent.ids == [first, second]

    recent.move_on(111.0)
    assert recent.ids == [second]
