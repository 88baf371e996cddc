# kombu says that it is typed, and is so in part.
# mypy: disable-error-code="no-untyped-call"
"""The guarded kombu channels: what a stranger puts on a queue is parked before Celery sees it.

Stock Celery 5.7 dies of about every third malformed envelope, runs forged callbacks and holds a slot for a far ``eta``;
kombu 5.7's Valkey channel also dies when the server goes away with a message unacknowledged. One table of rules,
:func:`tasks.broker.envelope.validate_envelope`, stands in front of both transports. On Valkey the refused go to the
list ``tocsin.parked``, newest first; on RabbitMQ to the dead-letter queue. They are never executed and never requeued.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from queue import Empty
from typing import Any

import structlog
from amqp.basic_message import Message
from amqp.method_framing import frame_handler
from kombu import transport as kombu_transport
from kombu.transport import pyamqp
from kombu.transport import redis as valkey
from redis import exceptions as redis_errors

from tasks.broker.envelope import InvalidEnvelope, rejection_reason, validate_envelope

PARKED = "tocsin.parked"
MAX_PARKED = 1_000
PARKED_SAMPLE_BYTES = 4096
"""How much of a parked message is kept: enough to see what it was, never enough to fill the broker."""

log = structlog.get_logger(__name__)


def guard_transports() -> None:
    """Put the guarded transports behind kombu's URL schemes, for every connection this process makes from now on."""
    for scheme, transport in _TRANSPORTS.items():
        kombu_transport.TRANSPORT_ALIASES[scheme] = f"{__name__}:{transport.__name__}"
        kombu_transport._transport_cache.pop(scheme, None)


class GuardedQoS(valkey.QoS):
    """Valkey's book of unacknowledged messages.

    A message whose acknowledgement fails gives its slot back all the same, and an entry that cannot be read is struck
    out, not tried for ever.
    """

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message."""
        try:
            super().ack(delivery_tag)
        except self.channel.connection_errors:
            self._free_slot(delivery_tag)
            raise

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Reject a message."""
        try:
            super().reject(delivery_tag, requeue=requeue)
        except self.channel.connection_errors:
            self._free_slot(delivery_tag)
            raise

    def _free_slot(self, delivery_tag: str) -> None:
        # kombu forgets to: with a prefetch of one the worker would never ask for a message again, and so never notice
        # that its connection is gone. The message comes back when its visibility ends.
        self._dirty.add(delivery_tag)

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """Put an unacknowledged message back on its queue."""
        try:
            super().restore_by_tag(tag, client=client, leftmost=leftmost)
        except (ValueError, TypeError, RecursionError) as error:
            log.warning("transport.unreadable_unacked", error=str(error))
            self._remove_from_indices(tag).execute()


class GuardedValkeyChannel(valkey.Channel):
    """kombu's Valkey channel, with :func:`validate_envelope` between the socket and everything else."""

    QoS = GuardedQoS

    def _connparams(self, asynchronous: bool = False) -> Any:
        # When the server goes away, kombu takes the connection from under its channels. A task that ends later still
        # acknowledges; an AttributeError there kills the worker, a connection error is what Celery expects.
        if self.connection is None or self.connection.client is None:
            raise redis_errors.ConnectionError("the connection of this channel was closed")
        return super()._connparams(asynchronous)

    def _brpop_read(self, **options: Any) -> bool:
        # kombu's own, except that the guard stands before the parsing.
        try:
            popped = self._popped(**options)
            if not popped:
                raise Empty
            key, raw = popped
            queue = key.decode().rsplit(self.sep, 1)[0]
            self._queue_cycle.rotate(queue)
            self.connection._deliver(self._admitted(raw, queue), queue)
        finally:
            self._in_poll: Any = None
            self._flush_brpop_reauth()
        return True

    def _popped(self, **options: Any) -> Any:
        try:
            return self.client.parse_response(self.client.connection, "BRPOP", **options)
        except self.connection_errors:
            self.client.connection.disconnect()
            raise

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:  # noqa: ARG002 - kombu's signature
        with self.conn_or_acquire() as client:
            for step in self.priority_steps:
                if raw := client.rpop(self._q_for_pri(queue, step)):
                    return self._admitted(raw, queue)
        raise Empty

    def _deliver_fanout_message(self, message: Any, exchange: str) -> bool:
        # Remote control, only there when ops asks for Celery's events: kombu has parsed it, we look at its shape.
        if not isinstance(message, dict):
            raise Empty
        queue = self._fanout_to_queue[exchange]
        if reason := rejection_reason(message, queue=queue):
            self._park(json.dumps(message, default=str).encode(), queue, reason)
            raise Empty
        return bool(super()._deliver_fanout_message(message, exchange))

    def _admitted(self, raw: bytes, queue: str) -> dict[str, Any]:
        try:
            return validate_envelope(raw, queue=queue)
        except InvalidEnvelope as unfit:
            self._park(raw, queue, str(unfit))
            raise Empty from unfit

    def _park(self, raw: bytes, queue: str, reason: str) -> None:
        log.warning("transport.parked", queue=queue, reason=reason, bytes=len(raw))
        record = {
            "time": datetime.now(UTC).isoformat(),
            "queue": queue,
            "reason": reason,
            "bytes": len(raw),
            "raw": base64.b64encode(raw[:PARKED_SAMPLE_BYTES]).decode(),
        }
        with self.conn_or_acquire() as client:
            client.pipeline().lpush(PARKED, json.dumps(record)).ltrim(PARKED, 0, MAX_PARKED - 1).execute()


class GuardedValkeyTransport(valkey.Transport):
    """kombu's Valkey transport with guarded channels."""

    Channel = GuardedValkeyChannel


class GuardedRabbitChannel(pyamqp.Channel):
    """kombu's RabbitMQ channel; what :func:`validate_envelope` refuses is rejected, and so becomes a dead letter."""

    def basic_consume(self, queue: str = "", callback: Any = None, no_ack: bool = False, **options: Any) -> Any:
        """Consume, with the guard before the callback."""

        def guarded(message: Any) -> None:
            try:
                admitted = validate_envelope(_envelope_of(message), queue=queue)
            except InvalidEnvelope as unfit:
                log.warning("transport.parked", queue=queue, reason=str(unfit), bytes=len(message.body))
                if not no_ack:
                    self.basic_reject(message.delivery_tag, requeue=False)
                return
            message.properties["application_headers"] = admitted["headers"]
            callback(message)

        return super().basic_consume(queue=queue, callback=guarded, no_ack=no_ack, **options)


class _GuardedRabbitConnection(pyamqp.Connection):
    Channel = GuardedRabbitChannel

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, frame_handler=_forgiving_frames, **options)


def _forgiving_frames(connection: Any, callback: Any) -> Callable[[tuple[int, int, bytes]], bool]:
    """py-amqp's reader of frames; a message whose properties it cannot read comes without any, to be refused.

    RabbitMQ passes properties on unread: a time in the year 10^9 or a name that is not UTF-8 raises in the middle of
    the connection, and would do so again in every worker the message is given to.
    """
    read = frame_handler(connection, callback)

    def on_frame(frame: tuple[int, int, bytes]) -> bool:
        kind, channel, content = frame
        if kind == _HEADER_FRAME and not _is_readable(content):
            content = bytes(content[:_HEADER_BYTES]) + _NO_PROPERTIES
        return bool(read((kind, channel, content)))

    return on_frame


def _is_readable(header: bytes) -> bool:
    try:
        Message().inbound_header(header)
    except Exception:
        return False
    return True


_HEADER_FRAME = 2
_HEADER_BYTES = 12
"""Class, weight and body size; the properties follow."""

_NO_PROPERTIES = b"\0\0"


class GuardedRabbitTransport(pyamqp.Transport):
    """kombu's RabbitMQ transport with guarded channels."""

    Connection = _GuardedRabbitConnection


class GuardedRabbitTlsTransport(pyamqp.SSLTransport):
    """The same over TLS."""

    Connection = _GuardedRabbitConnection


_TRANSPORTS: dict[str, type] = {
    "redis": GuardedValkeyTransport,
    "rediss": GuardedValkeyTransport,
    "amqp": GuardedRabbitTransport,
    "amqps": GuardedRabbitTlsTransport,
}


def _envelope_of(message: Any) -> dict[str, Any]:
    properties, address = message.properties, message.delivery_info
    body = message.body
    return {
        # py-amqp decodes a body whose encoding it knows; ours is UTF-8 or refused.
        "body": body.encode(errors="replace") if isinstance(body, str) else bytes(body),
        "content-type": properties.get("content_type"),
        "content-encoding": properties.get("content_encoding"),
        "headers": properties.get("application_headers") or {},
        "properties": {
            "delivery_tag": str(address["delivery_tag"]),
            "delivery_info": {"exchange": address["exchange"], "routing_key": address["routing_key"]},
            **{name: properties.get(name) for name in ("priority", "correlation_id", "reply_to")},
        },
    }
