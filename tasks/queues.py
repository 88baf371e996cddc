# kombu says that it is typed, and is so in part.
# mypy: disable-error-code="no-untyped-call"
"""The queues hints travel on, the exchange events travel on, and where refused messages end.

:func:`declare` sets all of it up. It comes before anything is published: a topic message without a queue vanishes
silently. On Valkey a queue is a plain list; on RabbitMQ every queue is a quorum queue with dead letters.
"""

from __future__ import annotations

from typing import Any

from kombu.connection import Connection
from kombu.entity import Exchange, Queue, binding

from models.vocabulary import Lane

LANES_EXCHANGE = Exchange("tocsin.lanes", type="direct", durable=True)
EVENTS_EXCHANGE = Exchange("tocsin.events", type="topic", durable=True)
DEAD_EXCHANGE = Exchange("tocsin.dead", type="fanout", durable=True)

NOTIFIER_QUEUE = "tocsin.events.notifier"
NOTIFIER_KEYS = ("incident.#", "alert_rule.#", "alert_trigger.#", "command.#")
"""What wakes the notifier: every type on the bus, by family; a family more is a line here."""

DEAD_QUEUE = "tocsin.dead"

MAX_HINTS = 50_000
MAX_EVENTS = 1_000_000
MAX_DEAD = 10_000


def lane_queues(*, on_rabbitmq: bool) -> list[Queue]:
    """One queue per lane; past ``MAX_HINTS`` RabbitMQ refuses more, and the sweeper brings their rows back."""
    arguments = _guarded_quorum(MAX_HINTS) if on_rabbitmq else None
    return [
        Queue(lane.value, LANES_EXCHANGE, routing_key=lane.value, durable=True, queue_arguments=arguments)
        for lane in Lane
    ]


def notifier_queue(*, on_rabbitmq: bool) -> Queue:
    """The notifier's own queue of events; each message is its hint to read the table."""
    return Queue(
        NOTIFIER_QUEUE,
        bindings=[binding(EVENTS_EXCHANGE, routing_key=key) for key in NOTIFIER_KEYS],
        durable=True,
        queue_arguments=_guarded_quorum(MAX_EVENTS) if on_rabbitmq else None,
    )


def dead_queue() -> Queue:
    """Where RabbitMQ puts what was refused or delivered too often; the oldest give way to the newest."""
    return Queue(
        DEAD_QUEUE,
        DEAD_EXCHANGE,
        durable=True,
        queue_arguments={"x-queue-type": "quorum", "x-max-length": MAX_DEAD, "x-overflow": "drop-head"},
    )


def declare(connection: Connection) -> None:
    """Declare every exchange, queue and binding; doing it again changes nothing.

    :raises Exception: the connection's errors; on RabbitMQ also when a queue exists with other arguments.
    """
    on_rabbitmq = connection.transport.driver_type == "amqp"
    with connection.channel() as channel:
        # Dead letters first: from its first message on, a queue finds the place for what it refuses.
        # On Valkey they have none; the transport parks what it refuses in a list.
        if on_rabbitmq:
            dead_queue()(channel).declare()
        EVENTS_EXCHANGE(channel).declare()
        for queue in [*lane_queues(on_rabbitmq=on_rabbitmq), notifier_queue(on_rabbitmq=on_rabbitmq)]:
            queue(channel).declare()


def _guarded_quorum(max_length: int) -> dict[str, Any]:
    return {
        "x-queue-type": "quorum",
        "x-delivery-limit": 20,
        "x-dead-letter-exchange": DEAD_EXCHANGE.name,
        "x-dead-letter-strategy": "at-least-once",
        # At-least-once dead lettering asks for it: a full queue refuses, it drops nothing.
        "x-overflow": "reject-publish",
        "x-max-length": max_length,
    }
