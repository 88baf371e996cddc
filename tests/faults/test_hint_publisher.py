"""The hint publisher merges hints, bounds its queue, and survives broker outages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from kombu.entity import Queue

from models.enums import Lane
from tasks.app import make_app
from tasks.broker.hint_publisher import COUNTED_SECONDS, MAX_PENDING_SUBJECTS, HintPublisher
from tasks.broker.hints import Hint
from tasks.broker.topology import LANES_EXCHANGE
from tasks.celery_tasks import register_tasks
from tests.brokers import Broker, RabbitBroker
from tests.faults.conftest import HintWorker
from tests.waiting import eventually


def test_a_hint_is_delivered_to_its_lanes_task(worker: HintWorker, publisher: HintPublisher) -> None:
    publisher.publish(Lane.COMMANDS, ["incident:12:7", "org:12"])

    worker.wait_handled("org:12")

    assert worker.handled == ["incident:12:7", "org:12"]


def test_a_worker_accepts_every_published_hint(broker: Broker, worker: HintWorker, publisher: HintPublisher) -> None:
    publisher.publish(Lane.COMMANDS, (f"incident:1:{number}" for number in range(2000)))

    worker.wait_handled("incident:1:1999")

    assert len(worker.handled) == 2000
    assert broker.parked_count() == 0


def test_a_hint_from_a_process_that_registers_the_tasks_is_not_rejected(broker: Broker, worker: HintWorker) -> None:
    # A worker's child also publishes hints. Celery adds a registered task's time limits to each message.
    app = make_app(broker.settings)
    register_tasks(app, dict.fromkeys(Lane, lambda _hint: None))
    app.finalize()
    publisher = HintPublisher(app)

    publisher.start()
    publisher.publish(Lane.COMMANDS, ["org:1"])

    worker.wait_handled("org:1")
    publisher.stop()
    assert broker.parked_count() == 0


def test_hints_are_kept_during_a_broker_outage_and_published_afterwards(broker: Broker) -> None:
    publisher = HintPublisher(make_app(broker.settings))
    broker.stop()
    publisher.start()
    publisher.publish(Lane.BULK, ["org:1"])

    broker.start()

    def is_queued() -> bool:
        publisher.publish(Lane.BULK, ["org:2"])
        return broker.depth(Lane.BULK) > 0

    eventually(is_queued)
    publisher.stop()


def test_stopping_publishes_pending_hints(broker: Broker) -> None:
    publisher = HintPublisher(make_app(broker.settings))
    publisher.publish(Lane.DELIVERIES, ["user:5"])

    publisher.start()
    publisher.stop(timeout=10)

    assert broker.depth(Lane.DELIVERIES) == 1


def test_hints_from_many_callers_are_merged_into_few_messages(broker: Broker) -> None:
    publisher = HintPublisher(make_app(broker.settings))
    for number in range(300):
        publisher.publish(Lane.COMMANDS, ["org:1", f"incident:1:{number}"])

    publisher.start()
    publisher.stop(timeout=10)

    assert broker.depth(Lane.COMMANDS) == 1


def test_no_hint_is_added_to_a_full_queue(broker: Broker) -> None:
    for subject in ("org:1", "org:2"):
        publisher = HintPublisher(make_app(broker.settings), max_queued=1)
        publisher.publish(Lane.COMMANDS, [subject])
        publisher.start()
        publisher.stop(timeout=10)

    assert broker.depth(Lane.COMMANDS) == 1


def test_a_queue_is_declared_once_for_many_hints(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    declared = 0
    declare_queue: Callable[..., Any] = Queue.queue_declare

    def count(queue: Queue, *args: Any, **options: Any) -> Any:
        nonlocal declared
        declared += 1
        return declare_queue(queue, *args, **options)

    with publishing_at(broker, lambda: 100.0) as publisher:
        publisher.publish(Lane.COMMANDS, ["org:0"])
        eventually(lambda: broker.depth(Lane.COMMANDS) == 1)
        with monkeypatch.context() as patched:
            patched.setattr(Queue, "queue_declare", count)
            for number in range(1, 10):
                publisher.publish(Lane.COMMANDS, [f"org:{number}"])
            publisher.stop(timeout=10)

    assert broker.depth(Lane.COMMANDS) > 1
    assert declared == 0


def test_a_deleted_queue_is_declared_again_for_a_hint_after_a_while(broker: Broker) -> None:
    now = [100.0]
    with publishing_at(broker, lambda: now[0]) as publisher:
        publisher.publish(Lane.COMMANDS, ["org:1"])
        eventually(lambda: broker.depth(Lane.COMMANDS) == 1)
        broker.delete_queues()

        now[0] += 2 * COUNTED_SECONDS
        publisher.publish(Lane.COMMANDS, ["org:2"])

        eventually(lambda: broker.depth(Lane.COMMANDS) == 1)


def test_hints_arrive_at_once_although_the_exchange_of_the_lanes_was_deleted(rabbitmq: RabbitBroker) -> None:
    # Celery publishes to a direct exchange's queue by its name, through the default exchange, which nobody can delete.
    with publishing_at(rabbitmq, lambda: 100.0) as publisher:
        publisher.publish(Lane.COMMANDS, ["org:1"])
        eventually(lambda: rabbitmq.depth(Lane.COMMANDS) == 1)
        with rabbitmq.connection() as connection:
            connection.default_channel.exchange_delete(LANES_EXCHANGE.name)

        publisher.publish(Lane.COMMANDS, ["org:2"])

        eventually(lambda: rabbitmq.depth(Lane.COMMANDS) == 2)


def test_hints_are_counted_again_when_a_queue_seems_full(broker: Broker) -> None:
    with publishing_at(broker, lambda: 100.0, max_queued=1) as publisher:
        publisher.publish(Lane.COMMANDS, ["org:1"])
        eventually(lambda: broker.depth(Lane.COMMANDS) == 1)
        broker.receive_all(Lane.COMMANDS.value)

        def is_queued() -> bool:
            publisher.publish(Lane.COMMANDS, ["org:2"])
            return broker.depth(Lane.COMMANDS) == 1

        eventually(is_queued)


@contextmanager
def publishing_at(broker: Broker, clock: Callable[[], float], **options: Any) -> Iterator[HintPublisher]:
    """Run a publisher for which it is always the clock's time."""
    publisher = HintPublisher(make_app(broker.settings), clock=clock, **options)
    publisher.start()
    try:
        yield publisher
    finally:
        publisher.stop()


def test_invalid_subjects_are_dropped_and_valid_ones_published(worker: HintWorker, publisher: HintPublisher) -> None:
    publisher.publish(Lane.COMMANDS, ["", "incident:1:١٢", "x" * 201, "org:1"])

    worker.wait_handled("org:1")

    assert worker.handled == ["org:1"]


def test_the_number_of_pending_subjects_is_bounded(broker: Broker) -> None:
    publisher = HintPublisher(make_app(broker.settings))
    publisher.publish(Lane.COMMANDS, (f"incident:1:{number}" for number in range(2 * MAX_PENDING_SUBJECTS)))

    publisher.start()
    publisher.stop(timeout=30)

    assert broker.depth(Lane.COMMANDS) == len(list(Hint.for_subjects(map(str, range(MAX_PENDING_SUBJECTS)))))
