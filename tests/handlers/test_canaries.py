"""Canaries show whether a worker consumes a queue, and how long a message takes to reach it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import text
from sqlalchemy.engine import Connection

from models.enums import Lane
from models.messaging.canary import (
    ALL_QUEUES,
    NOTIFIER,
    RETENTION_HOURS,
    Canary,
    CanaryStatus,
    canary_status,
    insert_due_canaries,
    mark_canaries_seen,
    mark_queue_consumed,
    prune_canaries,
)
from tests.conftest import Database


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    with database.engine.begin() as connection:
        yield connection


def test_every_queue_gets_a_canary_whenever_one_is_due(connection: Connection) -> None:
    first = insert_due_canaries(connection, every_seconds=30)
    at_once = insert_due_canaries(connection, every_seconds=30)
    age_canaries(connection, "30 seconds")
    next_ = insert_due_canaries(connection, every_seconds=30)

    assert [canary.queue for canary in first] == ALL_QUEUES["queues"] == [*Lane, NOTIFIER]
    assert at_once == []
    assert [canary.queue for canary in next_] == ALL_QUEUES["queues"]
    assert not set(first) & set(next_)


def test_a_received_canary_shows_its_latency_and_its_worker(connection: Connection) -> None:
    sent = {canary.queue: canary for canary in insert_due_canaries(connection, every_seconds=30)}
    age_canaries(connection, "2 minutes")

    mark_canaries_seen(connection, [sent[Lane.BULK]], worker="somewhere/1")

    bulk = flight(connection, Lane.BULK)
    assert bulk.worker == "somewhere/1"
    assert bulk.way_seconds is not None
    assert bulk.unseen_seconds is None
    assert (flight(connection, Lane.COMMANDS).unseen_seconds or 0) >= 120
    assert bulk.age_seconds < 120 <= bulk.way_seconds <= bulk.sent_seconds


def test_a_queue_without_a_worker_shows_the_age_of_its_oldest_canary(connection: Connection) -> None:
    insert_due_canaries(connection, every_seconds=30)
    age_canaries(connection, "40 seconds")
    for canary in insert_due_canaries(connection, every_seconds=30):
        if canary.queue != Lane.DELIVERIES:
            mark_canaries_seen(connection, [canary], worker="somewhere/1")

    deliveries = flight(connection, Lane.DELIVERIES)
    assert deliveries.sent_seconds < 40 <= deliveries.age_seconds
    assert (deliveries.way_seconds, deliveries.worker) == (None, None)
    assert flight(connection, Lane.COMMANDS).age_seconds < 40


def test_a_canary_received_after_the_next_one_was_sent_shows_its_own_latency(connection: Connection) -> None:
    (late, *_) = insert_due_canaries(connection, every_seconds=30)
    age_canaries(connection, "45 seconds")
    insert_due_canaries(connection, every_seconds=30)

    mark_canaries_seen(connection, [late], worker="somewhere/1")

    assert (flight(connection, late.queue).way_seconds or 0) >= 45


def test_a_canary_is_received_only_once_and_only_on_its_own_queue(connection: Connection) -> None:
    (canary, *_) = insert_due_canaries(connection, every_seconds=30)
    mark_canaries_seen(connection, [Canary(Lane.BULK, canary.id)], worker="a stranger")
    mark_canaries_seen(connection, [canary], worker="the first")
    mark_canaries_seen(connection, [canary], worker="the second")

    assert flight(connection, canary.queue).worker == "the first"
    assert flight(connection, Lane.BULK).worker is None


@pytest.mark.parametrize(
    "forged", ["canary:", "canary:x", "canary:-1", "canary:1.5", f"canary:{2**63}", "canary:٣", "canary:99"]
)
def test_a_forged_canary_is_ignored(connection: Connection, forged: str) -> None:
    insert_due_canaries(connection, every_seconds=30)

    mark_canaries_seen(connection, Canary.from_subjects(Lane.COMMANDS, [forged]), worker="a stranger")

    assert flight(connection, Lane.COMMANDS).worker is None


def test_old_canaries_are_pruned_except_the_last_one_received(connection: Connection) -> None:
    for _ in range(3):
        for canary in insert_due_canaries(connection, every_seconds=30):
            if canary.queue == Lane.BULK:
                mark_canaries_seen(connection, [canary], worker="somewhere/1")
        age_canaries(connection, f"{RETENTION_HOURS} hours")
    last_seen = flight(connection, Lane.BULK)

    prune_canaries(connection)

    assert connection.execute(text("SELECT count(*) FROM canaries")).scalar_one() == 1
    assert flight(connection, Lane.BULK).way_seconds == last_seen.way_seconds


def test_a_canary_after_a_long_silence_does_not_make_the_silence_the_consumers_fault(connection: Connection) -> None:
    for canary in insert_due_canaries(connection, every_seconds=30):
        mark_canaries_seen(connection, [canary], worker="somewhere/1")
    age_canaries(connection, "1 hour")

    insert_due_canaries(connection, every_seconds=30)

    bulk = flight(connection, Lane.BULK)
    assert bulk.age_seconds >= 3600
    assert (bulk.unseen_seconds or 0) < 3600


def test_a_queue_whose_messages_are_not_read_is_marked_as_a_whole(connection: Connection) -> None:
    insert_due_canaries(connection, every_seconds=30)

    mark_queue_consumed(connection, NOTIFIER, worker="somewhere/2")

    assert [each.queue for each in canary_status(connection) if each.unseen_seconds is None] == [NOTIFIER]
    assert flight(connection, NOTIFIER).worker == "somewhere/2"


def age_canaries(connection: Connection, time: str) -> None:
    """Move the send and receive times of all canaries into the past by a PostgreSQL interval."""
    connection.execute(
        text("UPDATE canaries SET sent_at = sent_at - cast(:t AS interval), seen_at = seen_at - cast(:t AS interval)"),
        {"t": time},
    )


def flight(connection: Connection, queue: str) -> CanaryStatus:
    return {flight.queue: flight for flight in canary_status(connection)}[queue]
