# kombu is only partly typed, although it is marked as typed.
# mypy: disable-error-code="no-untyped-call"
"""Whether the broker takes what is published: a server that answers may still refuse writes."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from kombu.connection import Connection
from redis.exceptions import ResponseError

from tasks.broker.blocking import find_alarm
from tasks.broker.topology import is_rabbitmq

PROBE_KEY: Final = "tocsin.probe"
"""A key of Valkey or Redis that is written to find out, and expires at once."""

_PROBE_MILLISECONDS: Final = 1_000


class WriteRefusal(NamedTuple):
    """Why the broker takes no message, as the end of a sentence, and what to do about it."""

    reason: str
    fix: str


def find_write_refusal(connection: Connection) -> WriteRefusal | None:
    """Return why the broker takes no message, or ``None`` if it does. A connection that RabbitMQ blocks is closed.

    :raises Exception: the connection failed.
    """
    if is_rabbitmq(connection):
        alarm = find_alarm(connection)
        return WriteRefusal(f"RabbitMQ blocks publishers ({alarm})", _FREE_RESOURCES) if alarm else None
    channel: Any = connection.default_channel
    try:
        channel.client.set(PROBE_KEY, "", px=_PROBE_MILLISECONDS)
    except ResponseError as error:
        # redis-py removes the code of errors that it has classes for.
        text = f"{type(error).__name__} {error}"
        for word, refusal in _REFUSALS.items():
            if word in text:
                return refusal
        return WriteRefusal(f"the server refuses writes ({error})", "see the server's log and its ACL")
    return None


_FREE_RESOURCES: Final = "free memory or disk space on its host"
_REFUSALS: Final = {
    "ReadOnlyError": WriteRefusal(
        "the server is a read-only replica", "let BROKER_URL name the primary, or make this server one"
    ),
    "OutOfMemoryError": WriteRefusal("the server's memory is full", "raise its maxmemory, or free memory"),
    "MISCONF": WriteRefusal("the server cannot save to its disk", _FREE_RESOURCES),
}
