# kombu is only partly typed, although it is marked as typed.
# mypy: disable-error-code="no-untyped-call"
"""Guarded kombu transports, which park invalid messages before Celery sees them.

An unmodified Celery 5.7 crashes on about a third of malformed envelopes, executes forged callbacks, and lets a message
with a distant ``eta`` occupy a worker slot until then. kombu 5.7's Valkey channel also crashes when the server
disappears while a message is unacknowledged. :func:`tasks.broker.envelope.validate_envelope` guards both transports. On
Valkey, invalid messages go to the list ``tocsin.parked``, newest first. On RabbitMQ, they go to the dead-letter queue.
They are never executed or requeued.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from queue import Empty
from typing import Any

import structlog
from amqp import spec
from amqp.basic_message import Message
from amqp.method_framing import frame_handler
from kombu import transport as kombu_transport
from kombu.transport import pyamqp
from kombu.transport import redis as valkey
from redis import exceptions as redis_errors

from tasks.broker.bindings import drop_damaged_bindings
from tasks.broker.envelope import InvalidEnvelope, rejection_reason, validate_envelope

PARKED = "tocsin.parked"
MAX_PARKED = 1_000
PARKED_SAMPLE_BYTES = 4096
"""The number of bytes of a parked message that are kept: enough to recognize it, but too few to fill the broker."""

log = structlog.get_logger(__name__)


def guard_transports() -> None:
    """Register the guarded transports under kombu's URL schemes, for all connections that this process opens later."""
    for scheme, transport in _TRANSPORTS.items():
        kombu_transport.TRANSPORT_ALIASES[scheme] = f"{__name__}:{transport.__name__}"
        kombu_transport._transport_cache.pop(scheme, None)


class GuardedQoS(valkey.QoS):
    """kombu's record of unacknowledged messages on Valkey.

    If acknowledging a message fails, its prefetch slot is still freed. An unreadable entry is removed instead of being
    retried forever.
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
        # kombu does not free it. With a prefetch of one, the worker would never request another message, and so never
        # notice that its connection is gone. The message is redelivered when its visibility timeout ends.
        self._dirty.add(delivery_tag)

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """Put an unacknowledged message back on its queue."""
        try:
            super().restore_by_tag(tag, client=client, leftmost=leftmost)
        except (ValueError, TypeError, RecursionError) as error:
            log.warning("transport.unreadable_unacked", error=str(error))
            self._remove_from_indices(tag).execute()


class GuardedValkeyChannel(valkey.Channel):
    """kombu's Valkey channel, extended to check each message with :func:`validate_envelope` as soon as it is read."""

    QoS = GuardedQoS

    def get_table(self, exchange: str) -> list[tuple[str, str, str]]:
        """Return the bindings of an exchange, without damaged ones, which are removed."""
        return [*drop_damaged_bindings(self, exchange)]

    def _connparams(self, asynchronous: bool = False) -> Any:
        # When the server disappears, kombu removes the connection from its channels. A task that ends later still
        # acknowledges its message. Celery handles a connection error, but an AttributeError would kill the worker.
        if self.connection is None or self.connection.client is None:
            raise redis_errors.ConnectionError("the connection of this channel was closed")
        return super()._connparams(asynchronous)

    def _brpop_read(self, **options: Any) -> bool:
        # As in kombu, except that the message is validated before it is parsed.
        try:
            popped = self._pop(**options)
            if not popped:
                raise Empty
            key, raw = popped
            queue = key.decode().rsplit(self.sep, 1)[0]
            self._queue_cycle.rotate(queue)
            self.connection._deliver(self._validated(raw, queue), queue)
        finally:
            self._in_poll: Any = None
            self._flush_brpop_reauth()
        return True

    def _pop(self, **options: Any) -> Any:
        try:
            return self.client.parse_response(self.client.connection, "BRPOP", **options)
        except self.connection_errors:
            self.client.connection.disconnect()
            raise

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:  # noqa: ARG002 - kombu's signature
        with self.conn_or_acquire() as client:
            for step in self.priority_steps:
                if raw := client.rpop(self._q_for_pri(queue, step)):
                    return self._validated(raw, queue)
        raise Empty

    def _deliver_fanout_message(self, message: Any, exchange: str) -> bool:
        # This is remote control, which only TOCSIN_CELERY_EVENTS enables. kombu has parsed the message already, so
        # only its shape is checked.
        if not isinstance(message, dict):
            raise Empty
        queue = self._fanout_to_queue[exchange]
        if reason := rejection_reason(message, queue=queue):
            self._park(json.dumps(message, default=str).encode(), queue, reason)
            raise Empty
        return bool(super()._deliver_fanout_message(message, exchange))

    def _validated(self, raw: bytes, queue: str) -> dict[str, Any]:
        try:
            return validate_envelope(raw, queue=queue)
        except InvalidEnvelope as error:
            self._park(raw, queue, str(error))
            raise Empty from error

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
    """kombu's RabbitMQ channel, extended to dead-letter messages that :func:`validate_envelope` rejects."""

    def basic_consume(self, queue: str = "", callback: Any = None, no_ack: bool = False, **options: Any) -> Any:
        """Consume a queue, validating each message before it reaches the callback."""

        def guarded(message: Any) -> None:
            try:
                envelope = validate_envelope(_envelope_of(message), queue=queue)
            except InvalidEnvelope as error:
                log.warning("transport.parked", queue=queue, reason=str(error), bytes=len(message.body))
                if not no_ack:
                    self.basic_reject(message.delivery_tag, requeue=False)
                return
            message.properties["application_headers"] = envelope["headers"]
            callback(message)

        return super().basic_consume(queue=queue, callback=guarded, no_ack=no_ack, **options)


class _GuardedRabbitConnection(pyamqp.Connection):
    Channel = GuardedRabbitChannel

    # py-amqp declares this method without its argument, and so does not read the reason.
    _METHODS = pyamqp.Connection._METHODS | {spec.Connection.Blocked: spec.method(spec.Connection.Blocked, "s")}

    blocked_reason: str | None = None
    """Why RabbitMQ reads nothing from this connection, or ``None`` if it does."""

    logs_alarms = True
    """Whether to log that RabbitMQ blocks this connection, and when that ends."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, frame_handler=_tolerant_frame_handler, **options)

    def _on_blocked(self, reason: str) -> None:
        self.blocked_reason = reason
        if self.logs_alarms:
            log.warning("broker.blocked", reason=reason, fix="free memory or disk space on RabbitMQ's host")

    def _on_unblocked(self) -> None:
        self.blocked_reason = None
        if self.logs_alarms:
            log.info("broker.unblocked")


def _tolerant_frame_handler(connection: Any, callback: Any) -> Callable[[tuple[int, int, bytes]], bool]:
    """Return py-amqp's frame handler, changed to strip unreadable properties. The message is then found invalid.

    RabbitMQ forwards properties without reading them. A timestamp in the year 10^9 or a name that is not UTF-8 would
    break the connection of every worker to which the message is delivered.
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
"""The combined length of the class, weight and body size fields, which precede the properties."""

_NO_PROPERTIES = b"\0\0"


class GuardedRabbitTransport(pyamqp.Transport):
    """kombu's RabbitMQ transport with guarded channels."""

    Connection = _GuardedRabbitConnection


class GuardedRabbitTlsTransport(pyamqp.SSLTransport):
    """kombu's RabbitMQ transport over TLS, with guarded channels."""

    Connection = _GuardedRabbitConnection


_TRANSPORTS: dict[str, type] = {
    "redis": GuardedValkeyTransport,
    "rediss": GuardedValkeyTransport,
    "amqp": GuardedRabbitTransport,
    "amqps": GuardedRabbitTlsTransport,
}


def _envelope_of(message: Any) -> dict[str, Any]:
    properties, delivery = message.properties, message.delivery_info
    body = message.body
    return {
        # py-amqp decodes a body whose encoding it knows. Any encoding other than UTF-8 is invalid here.
        "body": body.encode(errors="replace") if isinstance(body, str) else bytes(body),
        "content-type": properties.get("content_type"),
        "content-encoding": properties.get("content_encoding"),
        "headers": properties.get("application_headers") or {},
        "properties": {
            "delivery_tag": str(delivery["delivery_tag"]),
            "delivery_info": {"exchange": delivery["exchange"], "routing_key": delivery["routing_key"]},
            **{name: properties.get(name) for name in ("priority", "correlation_id", "reply_to")},
        },
    }
