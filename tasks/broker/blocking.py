# kombu is only partly typed, although it is marked as typed.
# mypy: disable-error-code="no-untyped-call"
"""Alarms of RabbitMQ: while it is low on memory or disk space, it reads nothing from connections that publish.

It announces this with ``connection.blocked``, but only to connections that have begun to publish. Until it sends
``connection.unblocked``, anything sent stays in the sockets' buffers, and closing the connection does not withdraw it:
RabbitMQ still processes it after the alarm. The guarded transport logs both announcements and keeps ``blocked_reason``.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final

from amqp import Message
from amqp.exceptions import NotFound
from kombu.connection import Connection

from tasks.broker.topology import LANES_EXCHANGE, is_rabbitmq

PROBE_KEY: Final = "probe"
"""A routing key of the lanes' exchange to which no queue is bound."""

PROBE_SECONDS: Final = 2.0


class BrokerBlocked(Exception):
    """Raised when nothing can be published, because RabbitMQ blocks publishers. The error's text is the reason."""


def send_probe(channel: Any, **options: Any) -> None:
    """Publish a message that reaches no queue, so that RabbitMQ either confirms it or blocks the connection.

    RabbitMQ blocks a connection before it reads the first message's body, so the body must not be empty.
    """
    channel.basic_publish(Message(b"?"), exchange=LANES_EXCHANGE.name, routing_key=PROBE_KEY, **options)


def process_incoming(connection: Connection) -> None:
    """Process the frames that RabbitMQ has sent on its own. This also detects that it has closed the connection.

    :raises Exception: the connection is closed.
    """
    with contextlib.suppress(TimeoutError):
        while True:
            connection.drain_events(timeout=0)


def blocked_reason(connection: Connection) -> str | None:
    """Return why RabbitMQ blocks this connection, or ``None`` if it has not announced that it does.

    :raises Exception: the connection is closed.
    """
    if not is_rabbitmq(connection):
        return None
    process_incoming(connection)
    reason: str | None = connection.connection.blocked_reason
    return reason


def find_alarm(connection: Connection) -> str | None:
    """Return why RabbitMQ blocks publishers, or ``None`` if it does not. A connection that it blocks is closed.

    If the topology has not been declared yet, no alarm is found.

    :raises Exception: the connection failed.
    """
    if not is_rabbitmq(connection):
        return None
    channel = connection.default_channel
    # The caller reports the alarm.
    channel.connection.logs_alarms = False
    # Without the exchange, which a relay declares, nothing can be sent.
    with contextlib.suppress(TimeoutError, NotFound):
        send_probe(channel, confirm_timeout=PROBE_SECONDS)
    reason: str | None = channel.connection.blocked_reason
    if reason is not None:
        # Closing it in an orderly way would wait for a response.
        connection.collect()
    return reason
