"""The queues of other services, as an operator lists them in TOCSIN_SERVICE_QUEUES."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from models.enums import Lane

RESERVED_PREFIXES: Final = ("amq.", "tocsin.")
"""The prefixes of the names that belong to RabbitMQ and to tocsin."""

_NAME: Final = re.compile(r"[A-Za-z0-9_.:-]{1,200}")
_KEY: Final = re.compile(r"(?:[A-Za-z0-9_-]+|\*|#)(?:\.(?:[A-Za-z0-9_-]+|\*|#))*")


class ServiceQueue(NamedTuple):
    """A queue of another service, and the routing keys by which it is bound to the events exchange."""

    name: str
    keys: tuple[str, ...]


def parse_service_queues(text: str) -> tuple[ServiceQueue, ...]:
    """Return the queues in a text like ``billing=incident.*,command.dead;audit=#``.

    >>> parse_service_queues("billing=incident.*,command.dead; audit=#")
    (ServiceQueue(name='billing', keys=('incident.*', 'command.dead')), ServiceQueue(name='audit', keys=('#',)))

    :raises ValueError: if the text is malformed, or a name is reserved or appears twice.
    """
    queues = tuple(_parse_queue(part.strip()) for part in text.split(";") if part.strip())
    names = [queue.name for queue in queues]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"it lists the queue {repeated[0]} twice: separate the keys of a queue with commas")
    return queues


def _parse_queue(text: str) -> ServiceQueue:
    name, equals, listed = (part.strip() for part in text.partition("="))
    keys = tuple(key.strip() for key in listed.split(","))
    if not equals or not _NAME.fullmatch(name):
        raise ValueError(
            f"{text!r} is not a queue with its routing keys: write billing=incident.*,command.dead;audit=#"
        )
    if name.startswith(RESERVED_PREFIXES) or name in {*Lane}:
        raise ValueError(f"the queue name {name} is reserved: choose one that does not begin with amq. or tocsin.")
    if malformed := [key for key in keys if not _KEY.fullmatch(key)]:
        raise ValueError(
            f"{malformed[0]!r} is not a routing key of the queue {name}: "
            "write an event type, or a pattern such as incident.* or #"
        )
    return ServiceQueue(name, keys)
