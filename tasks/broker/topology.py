# kombu says that it is typed, and is so in part.
# mypy: disable-error-code="no-untyped-call"
"""The queues hints travel on, the exchange events travel on, and where refused messages end.

:func:`declare` sets all of it up. It comes before anything is published: a topic message without a queue vanishes
silently. On Valkey a queue is a plain list; on RabbitMQ every queue is a quorum queue with dead letters.
"""

from __future__ import annotations

from typing import Any

from amqp.exceptions import AccessRefused, NotFound
from kombu.connection import Connection
from kombu.entity import Exchange, Queue, binding

from models.enums import Lane

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
    with connection.channel() as channel:
        for entity in _topology(on_rabbitmq=_is_rabbitmq(connection)):
            entity(channel).declare()


def topology_errors(connection: Connection) -> list[str]:
    """What RabbitMQ lacks of the topology, or holds in another shape: in sentences, with the fix. Changes nothing.

    On Valkey there is nothing to look for: a list comes with its first message. Bindings cannot be asked for; whoever
    declares restores them.

    :raises Exception: the connection's errors.
    """
    if not _is_rabbitmq(connection):
        return []
    missing, others = [], []
    with connection.channel() as channel:
        for entity in _topology(on_rabbitmq=True):
            name = f"the {type(entity).__name__.lower()} {entity.name}"
            try:
                _compare(entity(channel))
            except NotFound:
                missing.append(name)
            except connection.channel_errors as error:
                others.append(f"{name} {_difference(entity, error)}")
    return [_all_missing(missing), *others] if missing else others


def _topology(*, on_rabbitmq: bool) -> list[Any]:
    # Dead letters first: from its first message on, a queue finds the place for what it refuses.
    # On Valkey they have none; the transport parks what it refuses in a list.
    dead_letters: list[Any] = [DEAD_EXCHANGE, dead_queue()] if on_rabbitmq else []
    queues = [*lane_queues(on_rabbitmq=on_rabbitmq), notifier_queue(on_rabbitmq=on_rabbitmq)]
    return [*dead_letters, LANES_EXCHANGE, EVENTS_EXCHANGE, *queues]


def _compare(bound: Any) -> None:
    declare_it = bound.queue_declare if isinstance(bound, Queue) else bound.declare
    # Is it there? Only then: is it ours? RabbitMQ compares every argument, and names the one that differs.
    declare_it(passive=True)
    declare_it()


def _all_missing(names: list[str]) -> str:
    are, them = ("is", "it") if len(names) == 1 else ("are", "them")
    return f"{', '.join(names)} {are} missing: start `tocsin relay` (anew, if it runs), which declares {them}"


def _difference(entity: Any, error: Exception) -> str:
    said = str(getattr(error, "reply_text", "") or error)
    if isinstance(error, AccessRefused):
        return (
            f"may not be looked at ({said.removeprefix('ACCESS_REFUSED - ')}): "
            f"give the user in BROKER_URL the rights to configure, write and read (`rabbitmqctl set_permissions`)"
        )
    others = "" if isinstance(entity, Queue) else " and the services whose queues were bound to it"
    return (
        f"is not as we declare it ({said.removeprefix('PRECONDITION_FAILED - ')}): "
        f"delete it on RabbitMQ, no work is lost, then start `tocsin relay`{others} anew"
    )


def _is_rabbitmq(connection: Connection) -> bool:
    return bool(connection.transport.driver_type == "amqp")


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
