"""The loop of the relay and the notifier makes one round per wake-up, and more only if a limit cut the round off."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine

from models.messaging.outbox import PUBLISHING, WaitingEvent, mark_processed
from tests.conftest import Database
from tests.faults.relay_harness import insert_events, unpublished_count
from workers.runtime.deferral import DeferredRows
from workers.runtime.outbox_loop import OutboxLoop, ProcessBatch, ProcessedBatch


def test_a_batch_that_reached_every_event_is_followed_by_no_empty_one(database: Database) -> None:
    insert_events(database.engine, subjects=3, per_subject=2)

    with counting_transactions(database.engine) as transactions:
        run_until_caught_up(a_loop(database.engine))

    assert len(transactions) == 1
    assert unpublished_count(database.engine) == 0


def test_without_events_there_is_one_look_per_wake_up(database: Database) -> None:
    with counting_transactions(database.engine) as transactions:
        run_until_caught_up(a_loop(database.engine))

    assert len(transactions) == 1


@pytest.mark.parametrize(("subjects", "per_subject"), [(7, 1), (4, 1), (1, 7), (1, 3), (5, 4)])
def test_a_batch_that_a_limit_may_have_cut_off_is_followed_by_another_at_once(
    database: Database, subjects: int, per_subject: int
) -> None:
    insert_events(database.engine, subjects=subjects, per_subject=per_subject)

    run_until_caught_up(a_loop(database.engine, subjects_per_batch=2, events_per_subject=3))

    assert unpublished_count(database.engine) == 0


def test_a_batch_that_was_interrupted_is_followed_by_another_at_once(database: Database) -> None:
    insert_events(database.engine, subjects=3, per_subject=1)

    def process_one(connection: Connection, events: Sequence[WaitingEvent]) -> ProcessedBatch:
        mark_processed(connection, PUBLISHING, [events[0].id])
        return ProcessedBatch({}, is_interrupted=len(events) > 1)

    run_until_caught_up(a_loop(database.engine, process_one))

    assert unpublished_count(database.engine) == 0


def test_an_event_written_during_a_batch_is_found_in_the_round_that_its_wake_up_causes(database: Database) -> None:
    insert_events(database.engine, subjects=1, per_subject=1)
    woken, stop, batches = threading.Event(), threading.Event(), 0

    def process(connection: Connection, events: Sequence[WaitingEvent]) -> ProcessedBatch:
        nonlocal batches
        batches += 1
        if batches == 1:
            insert_events(database.engine, subjects=1, per_subject=1)
            woken.set()
        else:
            stop.set()
        return process_all(connection, events)

    def wait(_seconds: float) -> None:
        # Polling is not what finds the event.
        assert stop.is_set() or woken.wait(30)
        woken.clear()

    a_loop(database.engine, process).run("test", wait, stop)

    assert unpublished_count(database.engine) == 0


def a_loop(
    engine: Engine, process: ProcessBatch | None = None, *, subjects_per_batch: int = 100, events_per_subject: int = 50
) -> OutboxLoop:
    return OutboxLoop(
        engine,
        PUBLISHING,
        process or process_all,
        deferred=DeferredRows([1]),
        subjects_per_batch=subjects_per_batch,
        events_per_subject=events_per_subject,
        log_event="events.processed",
        verb="process",
    )


def process_all(connection: Connection, events: Sequence[WaitingEvent]) -> ProcessedBatch:
    mark_processed(connection, PUBLISHING, [event.id for event in events])
    return ProcessedBatch({})


def run_until_caught_up(loop: OutboxLoop) -> None:
    """Run the loop until it waits for a wake-up."""
    stop = threading.Event()
    loop.run("test", lambda _seconds: stop.set(), stop)


@contextmanager
def counting_transactions(engine: Engine) -> Iterator[list[Connection]]:
    """Yield a list that gets an entry for each transaction that begins during the block."""
    begun: list[Connection] = []
    listener: Callable[[Connection], None] = begun.append
    event.listen(engine, "begin", listener)
    try:
        yield begun
    finally:
        event.remove(engine, "begin", listener)
