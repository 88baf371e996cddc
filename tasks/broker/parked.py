# kombu is only partly typed, although it is marked as typed.
# mypy: disable-error-code="no-untyped-call"
"""The number of parked messages: those that a guarded transport has rejected and that are kept for inspection.

No work depends on a parked message, but each one shows that something other than this release publishes to our queues,
or that this release does so wrongly.
"""

from __future__ import annotations

import json
from typing import Final, NamedTuple

from amqp.exceptions import NotFound
from kombu.connection import Connection

from tasks.broker.topology import DEAD_QUEUE, is_rabbitmq
from tasks.broker.transport import PARKED

DESCRIPTION_CHARACTERS: Final = 300


class ParkedMessages(NamedTuple):
    """The number of messages parked in ``queue``. ``newest`` describes the newest one, if the broker records it.

    On RabbitMQ, the count includes messages whose delivery killed too many consumers.
    """

    queue: str
    messages: int
    newest: str | None = None


def find_parked_messages(connection: Connection) -> ParkedMessages:
    """Count the parked messages. If the queue does not exist yet, the count is 0.

    :raises Exception: the connection failed.
    """
    with connection.channel() as channel:
        if is_rabbitmq(connection):
            try:
                return ParkedMessages(DEAD_QUEUE, int(channel.queue_declare(DEAD_QUEUE, passive=True).message_count))
            except NotFound:
                return ParkedMessages(DEAD_QUEUE, 0)
        with channel.conn_or_acquire() as client:
            count, newest = client.pipeline().llen(PARKED).lindex(PARKED, 0).execute()
        return ParkedMessages(PARKED, int(count), _description(newest) if newest else None)


def _description(record: bytes) -> str:
    try:
        parked = json.loads(record)
        text = f"{parked['time']}, from the queue {parked['queue']}: {parked['reason']}"
    except (ValueError, TypeError, KeyError, RecursionError):
        text = "not written by tocsin"
    # Whoever may write to Valkey may have written it.
    return text[:DESCRIPTION_CHARACTERS].encode("unicode_escape").decode()
