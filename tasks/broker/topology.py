# kombu is only partly typed, although it is marked as typed.
# mypy: disable-error-code="no-untyped-call"
"""The broker's topology: the queues for hints, the exchange for events, and the dead-letter queue.

:func:`declare` must run before anything is published, because a topic exchange silently drops messages that match no
binding. On Valkey, a queue is a plain list. On RabbitMQ, it is a quorum queue, and messages that the other queues
reject go to the dead-letter queue.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import structlog
from amqp.exceptions import AccessRefused, NotFound
from kombu.connection import Connection
from kombu.entity import Exchange, Queue, binding
from redis.exceptions import ResponseError

from models.enums import Lane
from tasks.broker.bindings import delete_misused_keys, describe, read_bindings, repair_exchange
from tasks.broker.taps import find_dead_taps
from tasks.service_queues import ServiceQueue

LANES_EXCHANGE = Exchange("tocsin.lanes", type="direct", durable=True)
EVENTS_EXCHANGE = Exchange("tocsin.events", type="topic", durable=True)
DEAD_EXCHANGE = Exchange("tocsin.dead", type="fanout", durable=True)

NOTIFIER_QUEUE = "tocsin.events.notifier"
NOTIFIER_KEYS = ("incident.#", "alert_rule.#", "alert_trigger.#", "command.#")
"""The routing keys that wake the notifier, one for each family of event types."""

DEAD_QUEUE = "tocsin.dead"

MAX_HINTS = 50_000
MAX_EVENTS = 1_000_000
MAX_DEAD = 10_000

log = structlog.get_logger(__name__)


def lane_queues(*, on_rabbitmq: bool) -> list[Queue]:
    """Return each lane's queue. On RabbitMQ, a queue that holds ``MAX_HINTS`` hints rejects further ones."""
    arguments = _guarded_quorum(MAX_HINTS) if on_rabbitmq else None
    return [
        Queue(lane.value, LANES_EXCHANGE, routing_key=lane.value, durable=True, queue_arguments=arguments)
        for lane in Lane
    ]


def notifier_queue(*, on_rabbitmq: bool) -> Queue:
    """Return the notifier's queue. An event on this queue only signals that the events table has new rows."""
    return Queue(
        NOTIFIER_QUEUE,
        bindings=[binding(EVENTS_EXCHANGE, routing_key=key) for key in NOTIFIER_KEYS],
        durable=True,
        queue_arguments=_guarded_quorum(MAX_EVENTS) if on_rabbitmq else None,
    )


def service_queue(service: ServiceQueue, *, on_rabbitmq: bool) -> Queue:
    """Return the queue of another service. If full, it drops the oldest events, so it never rejects one."""
    arguments = {"x-queue-type": "quorum", "x-max-length": MAX_EVENTS, "x-overflow": "drop-head"}
    return Queue(
        service.name,
        bindings=[binding(EVENTS_EXCHANGE, routing_key=key) for key in service.keys],
        durable=True,
        queue_arguments=arguments if on_rabbitmq else None,
    )


def dead_queue() -> Queue:
    """Return the queue for messages that were rejected or redelivered too often. If full, it drops the oldest."""
    return Queue(
        DEAD_QUEUE,
        DEAD_EXCHANGE,
        durable=True,
        queue_arguments={"x-queue-type": "quorum", "x-max-length": MAX_DEAD, "x-overflow": "drop-head"},
    )


def declare(connection: Connection) -> None:
    """Declare every exchange, queue and binding. Calling this again changes nothing.

    On Valkey, keys of ours that hold something else are deleted before, and so are damaged bindings.

    :raises Exception: the connection failed or, on RabbitMQ, an exchange or queue exists with different arguments.
    """
    entities = _topology(on_rabbitmq=is_rabbitmq(connection))
    with connection.channel() as channel:
        if not is_rabbitmq(connection):
            delete_misused_keys(channel, [each.name for each in entities if isinstance(each, Queue)], kind=b"list")
            for exchange in (LANES_EXCHANGE, EVENTS_EXCHANGE):
                repair_exchange(channel, exchange.name)
        for entity in entities:
            entity(channel).declare()


def declare_service_queues(connection: Connection, queues: Iterable[ServiceQueue]) -> None:
    """Declare the queues of other services and bind them to the events exchange.

    A queue that exists keeps its arguments. A queue that the broker does not let us declare or bind is logged and
    skipped, so that the others still receive events; its service catches up over HTTP.

    :raises Exception: the connection failed.
    """
    for queue in queues:
        try:
            _declare_service_queue(connection, queue)
        except connection.channel_errors as error:
            log.warning("bus.queue_not_bound", queue=queue.name, error=str(error), fix="correct TOCSIN_SERVICE_QUEUES")


def _declare_service_queue(connection: Connection, service: ServiceQueue) -> None:
    queue = service_queue(service, on_rabbitmq=is_rabbitmq(connection))
    if not is_rabbitmq(connection) or _is_missing(connection, queue):
        with connection.channel() as channel:
            queue(channel).declare()
        return
    with connection.channel() as channel:
        for key in service.keys:
            queue(channel).bind_to(EVENTS_EXCHANGE, routing_key=key)


def _is_missing(connection: Connection, queue: Queue) -> bool:
    try:
        with connection.channel() as channel:
            queue(channel).queue_declare(passive=True)
    except NotFound:
        return True
    return False


def topology_errors(connection: Connection, services: Iterable[ServiceQueue] = ()) -> list[str]:
    """Return a sentence, with the fix, about each exchange or queue that is missing or different on RabbitMQ.

    The arguments of the queues of other services are not compared.

    On Valkey nothing is missing or different, because a list is created by its first message, and :func:`declare`
    restores the bindings. There, the errors are damaged bindings, and queues of taps that nobody reads any more.

    :raises Exception: the connection failed.
    """
    if not is_rabbitmq(connection):
        return _valkey_errors(connection)
    missing, different = [], []
    with connection.channel() as channel:
        for entity in _topology(on_rabbitmq=True):
            name = f"the {type(entity).__name__.lower()} {entity.name}"
            try:
                _compare(entity(channel))
            except NotFound:
                missing.append(name)
            except connection.channel_errors as error:
                different.append(f"{name} {_difference(entity, error)}")
        for service in services:
            try:
                service_queue(service, on_rabbitmq=True)(channel).queue_declare(passive=True)
            except NotFound:
                missing.append(f"the queue {service.name}")
            except connection.channel_errors as error:
                different.append(
                    f"the queue {service.name} cannot be inspected ({error}): correct TOCSIN_SERVICE_QUEUES"
                )
    return [_all_missing(missing), *different] if missing else different


def _valkey_errors(connection: Connection) -> list[str]:
    errors = []
    with connection.channel() as channel:
        for exchange in (LANES_EXCHANGE, EVENTS_EXCHANGE):
            exchange(channel).declare()  # which only tells kombu the exchange's type
            try:
                bindings, damaged = read_bindings(channel, exchange.name)
            except ResponseError:
                errors.append(f"the bindings of {exchange.name} are not a set: `tocsin relay` replaces them")
                continue
            if damaged:
                shown = ", ".join(describe(member) for member in damaged[:3])
                errors.append(
                    f"{exchange.name} has damaged bindings ({len(damaged)}, such as {shown}), which `tocsin relay` "
                    "removes: find out who writes to Valkey"
                )
            if dead := find_dead_taps(channel, bindings):
                errors.append(f"nobody reads the queues {', '.join(dead)} any more, which `tocsin relay` deletes")
    return errors


def _topology(*, on_rabbitmq: bool) -> list[Any]:
    # The exchange and the queue for rejected messages come first, so that they exist when a queue rejects a message.
    # Valkey has neither: the transport parks rejected messages in a list.
    dead_letters: list[Any] = [DEAD_EXCHANGE, dead_queue()] if on_rabbitmq else []
    queues = [*lane_queues(on_rabbitmq=on_rabbitmq), notifier_queue(on_rabbitmq=on_rabbitmq)]
    return [*dead_letters, LANES_EXCHANGE, EVENTS_EXCHANGE, *queues]


def _compare(bound: Any) -> None:
    declare_entity = bound.queue_declare if isinstance(bound, Queue) else bound.declare
    # The passive declaration only checks that the entity exists. The second has RabbitMQ compare every argument.
    declare_entity(passive=True)
    declare_entity()


def _all_missing(names: list[str]) -> str:
    are, them = ("is", "it") if len(names) == 1 else ("are", "them")
    return f"{', '.join(names)} {are} missing: start `tocsin relay` (restart it, if it runs), which declares {them}"


def _difference(entity: Any, error: Exception) -> str:
    reply = str(getattr(error, "reply_text", "") or error)
    if isinstance(error, AccessRefused):
        return (
            f"cannot be inspected ({reply.removeprefix('ACCESS_REFUSED - ')}): "
            f"grant the user in BROKER_URL the permissions to configure, write and read (`rabbitmqctl set_permissions`)"
        )
    others = "" if isinstance(entity, Queue) else " and the services whose queues were bound to it"
    return (
        f"differs from its declaration ({reply.removeprefix('PRECONDITION_FAILED - ')}): "
        f"delete it on RabbitMQ, which loses no work, then restart `tocsin relay`{others}"
    )


def is_rabbitmq(connection: Connection) -> bool:
    """Return whether the connection's broker is RabbitMQ; otherwise it is Valkey or Redis."""
    return bool(connection.transport.driver_type == "amqp")


def _guarded_quorum(max_length: int) -> dict[str, Any]:
    return {
        "x-queue-type": "quorum",
        "x-delivery-limit": 20,
        "x-dead-letter-exchange": DEAD_EXCHANGE.name,
        "x-dead-letter-strategy": "at-least-once",
        # Required by at-least-once dead lettering: a full queue rejects new messages instead of dropping old ones.
        "x-overflow": "reject-publish",
        "x-max-length": max_length,
    }
