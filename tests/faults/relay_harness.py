# kombu is marked as typed but only partly annotated.
# mypy: disable-error-code="no-untyped-call"
"""Helpers for tests of the relay: events to publish, relays in threads, and a subscriber that receives the events."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from kombu.entity import Queue
from sqlalchemy.engine import Engine

from tasks.broker.topology import EVENTS_EXCHANGE, declare
from tasks.events import IncidentOpened
from tasks.settings import BrokerSettings
from tests.brokers import QUORUM_ARGUMENTS, Broker, ReceivedMessage
from tests.builders import an_event, an_incident, an_organization
from workers.relay.relay import Relay

SUBSCRIBER_QUEUE = "another.service"


EVENT = IncidentOpened(projects=("backend",))


@dataclass
class Subscriber:
    """A subscriber to events, such as another service, with its own queue."""

    broker: Broker
    messages: list[ReceivedMessage] = field(default_factory=list)

    @property
    def settings(self) -> BrokerSettings:
        return self.broker.settings

    def subscribe(self, routing_key: str, **limits: object) -> None:
        """Bind the subscriber's queue to a routing key; ``limits`` are additional queue arguments."""
        arguments = QUORUM_ARGUMENTS | limits
        with self.broker.connection() as connection:
            declare(connection)
            queue = Queue(SUBSCRIBER_QUEUE, EVENTS_EXCHANGE, routing_key=routing_key, queue_arguments=arguments)
            queue(connection.default_channel).declare()

    def received(self) -> list[Any]:
        """Return all events received so far, in order."""
        self.messages += self.broker.receive_all(SUBSCRIBER_QUEUE)
        return [message.payload for message in self.messages]

    def sequences(self) -> dict[str, list[int]]:
        """Return the sequence numbers of every subject, in the order of receipt."""
        subjects: dict[str, list[int]] = defaultdict(list)
        for event in self.received():
            subjects[event["subject"]].append(int(event["sequence"]))
        return subjects


def insert_events(engine: Engine, *, subjects: int, per_subject: int) -> None:
    with engine.begin() as connection:
        organization = an_organization(connection)
        for _ in range(subjects):
            incident = an_incident(connection, organization, projects=[])
            for _ in range(per_subject):
                an_event(connection, incident, EVENT)


@contextmanager
def writing_events(engine: Engine) -> Iterator[Callable[[], int]]:
    """Write subjects with five events each for the duration of the block.

    Yield a function that, after the block, returns the number of subjects written."""
    stop = threading.Event()

    def write() -> int:
        subjects = 0
        while not stop.wait(0.02):
            insert_events(engine, subjects=5, per_subject=5)
            subjects += 5
        return subjects

    with ThreadPoolExecutor(1) as threads:
        written = threads.submit(write)
        try:
            yield written.result
        finally:
            stop.set()


def publish_all(relay: Relay) -> None:
    while relay.publish_batch():
        pass


def unpublished_count(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM events WHERE announced_at IS NULL").scalar_one())


def assert_complete(subscriber: Subscriber, *, subjects: int, per_subject: int) -> None:
    """Assert that the subscriber received all events of every subject, in order if duplicates are ignored."""
    received = subscriber.sequences()
    assert len(received) == subjects
    assert all(list(dict.fromkeys(numbers)) == list(range(1, per_subject + 1)) for numbers in received.values())


@contextmanager
def running_relays(*relays: Relay) -> Iterator[None]:
    """Run relays in threads for the duration of the block, which begins once all of them are ready."""
    stop = threading.Event()
    ready = [threading.Event() for _ in relays]
    threads = [
        threading.Thread(target=relay.run, args=(stop, event.set)) for relay, event in zip(relays, ready, strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        assert all(event.wait(10) for event in ready)
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
