# kombu is only partly typed, although it is marked as typed.
# mypy: disable-error-code="no-untyped-call"
"""The bindings of an exchange on Valkey, and the damage that another program can do to them.

kombu keeps them in one set per exchange, and publishes nothing if a single member is damaged. Whoever may write to
Valkey could therefore stop the event bus, or have every relay evaluate a slow regular expression.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import structlog
from redis import exceptions as redis_errors

SHOWN_CHARACTERS: Final = 100
"""How many characters of a damaged binding are logged and reported."""

log = structlog.get_logger(__name__)


class Binding(NamedTuple):
    """A queue that receives the messages whose routing key matches ``pattern``, as kombu keeps it."""

    routing_key: str
    pattern: str
    queue: str


def read_bindings(channel: Any, exchange: str) -> tuple[list[Binding], list[bytes]]:
    """Return the exchange's bindings, and those members of its set that are not bindings.

    :raises redis.exceptions.ResponseError: the key does not hold a set.
    """
    with channel.conn_or_acquire() as client:
        members = sorted(client.smembers(channel.keyprefix_queue % exchange))
    parsed = {member: _parse(channel, exchange, member) for member in members}
    valid = [found for found in parsed.values() if found is not None]
    return valid, [member for member, found in parsed.items() if found is None]


def drop_damaged_bindings(channel: Any, exchange: str) -> list[Binding]:
    """Return the exchange's bindings, after removing and logging everything that is not one."""
    try:
        valid, damaged = read_bindings(channel, exchange)
    except redis_errors.ResponseError:
        delete_misused_keys(channel, _keys(channel, exchange), kind=b"set")
        return []
    if damaged:
        with channel.conn_or_acquire() as client:
            client.srem(channel.keyprefix_queue % exchange, *damaged)
        log.warning("broker.bindings_dropped", exchange=exchange, bindings=[describe(member) for member in damaged])
    return valid


def repair_exchange(channel: Any, exchange: str) -> None:
    """Make the exchange usable: delete keys of its own that are not sets, and drop bindings to keys that are not lists.

    A bound queue whose key holds something else would make every publication fail.
    """
    delete_misused_keys(channel, _keys(channel, exchange), kind=b"set")
    bindings = drop_damaged_bindings(channel, exchange)
    queues = sorted({binding.queue for binding in bindings})
    misused = _misused(channel, queues, kind=b"list")
    members = [channel.sep.join(binding) for binding in bindings if binding.queue in misused]
    if members:
        with channel.conn_or_acquire() as client:
            client.srem(channel.keyprefix_queue % exchange, *members)
        log.warning("broker.bindings_dropped", exchange=exchange, bindings=[describe(each) for each in members])


def delete_misused_keys(channel: Any, keys: Iterable[str], *, kind: bytes) -> None:
    """Delete and log those of our own keys that hold something else than ``kind``, ``b"list"`` or ``b"set"``."""
    if misused := _misused(channel, list(keys), kind=kind):
        with channel.conn_or_acquire() as client:
            client.delete(*misused)
        log.warning(
            "broker.keys_deleted", keys=misused, reason=f"another program put something there, not a {kind.decode()}"
        )


def describe(member: bytes | str) -> str:
    """Return the beginning of a member as text that can be printed."""
    raw = member.encode(errors="replace") if isinstance(member, str) else member
    text = ascii(raw.decode(errors="backslashreplace"))
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


def _parse(channel: Any, exchange: str, member: bytes) -> Binding | None:
    try:
        binding = Binding(*member.decode().split(channel.sep))
    except (UnicodeDecodeError, TypeError):
        return None
    if not binding.queue:
        return None
    if exchange in channel.state.exchanges:
        # kombu derives the pattern from the routing key, so any other one is forged.
        expected = channel.typeof(exchange).prepare_bind(binding.queue, exchange, binding.routing_key, {})
        if tuple(part or "" for part in expected) != binding:
            return None
    try:
        re.compile(binding.pattern)
    except (re.error, OverflowError, RecursionError):
        return None
    return binding


def _misused(channel: Any, keys: list[str], *, kind: bytes) -> list[str]:
    with channel.conn_or_acquire() as client:
        pipeline = client.pipeline(transaction=False)
        for key in keys:
            pipeline.type(key)
        kinds = pipeline.execute()
    return [key for key, found in zip(keys, kinds, strict=True) if found not in {kind, b"none"}]


def _keys(channel: Any, exchange: str) -> list[str]:
    return [channel.keyprefix_queue % exchange, channel.keyprefix_binding_permanent % exchange]
