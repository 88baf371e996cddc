# kombu is only partly typed, although it is marked as typed.
# mypy: disable-error-code="no-untyped-call"
"""The event bus, on which the relay publishes batches of events.

The content type of a message is ``application/json``, because neither the guarded transport nor a consumer with kombu's
``accept=["json"]`` accepts ``application/cloudevents+json``.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import structlog
from kombu.messaging import Producer

from tasks.app import make_app
from tasks.broker.bindings import Binding, drop_damaged_bindings
from tasks.broker.blocking import blocked_reason
from tasks.broker.taps import remove_dead_taps
from tasks.broker.topology import EVENTS_EXCHANGE, NOTIFIER_QUEUE, declare, declare_service_queues, notifier_queue
from tasks.settings import BrokerSettings
from workers.relay.sent_batch import BusMessage, SentBatch

MAX_UNREAD: Final = 100_000
"""The maximum number of messages kept in a queue on Valkey.

Older ones are dropped, because an unread queue must not fill the broker.
"""

CHECK_SECONDS: Final = 5.0
"""How many seconds an idle connection is trusted before it is checked with a request."""

log = structlog.get_logger(__name__)


class PublishResult(NamedTuple):
    """The result of publishing a batch, as indexes of its messages. All queues have received those that are not listed.

    A full RabbitMQ queue has rejected the messages in ``rejected``; all other queues have received them. Those in
    ``unconfirmed`` may not have been received by any queue, because RabbitMQ blocks publishers or takes too long.
    """

    rejected: frozenset[int] = frozenset()
    unconfirmed: frozenset[int] = frozenset()


class EventBus:
    """Publishes events to the events exchange. Connects on first use, and is not thread-safe."""

    def __init__(self, settings: BrokerSettings, *, max_unread: int = MAX_UNREAD) -> None:
        self._app = make_app(settings)
        self._on_rabbitmq = not settings.on_redis
        self._send = self._send_to_rabbitmq if self._on_rabbitmq else self._send_to_valkey
        self._request_response = self._maintain_notifier_queue if self._on_rabbitmq else self._maintain_bindings
        self._service_queues = settings.parsed_service_queues
        self._max_unread = max_unread
        self._connection: Any = None
        self._overfull: set[str] = set()
        self.responded_at = time.monotonic()
        """When the broker last responded to a request, as a time of the monotonic clock."""
        self._interrupted: SentBatch | None = None
        self._awaited: set[BusMessage] = set()
        self._confirmed_late: set[BusMessage] = set()

    def check(self) -> None:
        """Connect if there is no connection. Otherwise check that the broker has not closed it and still responds.

        If RabbitMQ has just unblocked the connection, also wait until it has confirmed or rejected the messages sent
        before.

        :raises Exception: if the broker is unreachable or the connection is lost. The next call opens another one.
        """
        with self._closing_on_error():
            if self._connection is None:
                self._connection = self._connect()
                self.responded_at = time.monotonic()
                return
            if blocked_reason(self._connection) is not None:
                return
            self._settle_interrupted()
            if time.monotonic() - self.responded_at > CHECK_SECONDS:
                self._request_response()
                self.responded_at = time.monotonic()

    @property
    def is_blocked(self) -> bool:
        """Whether nothing can be published now, according to the last call of :meth:`check` or :meth:`publish`."""
        return self._interrupted is not None

    def publish(self, messages: Sequence[BusMessage]) -> PublishResult:
        """Publish the messages in order, and wait until the broker has responded to all of them.

        If RabbitMQ blocks publishers meanwhile, do not wait until it unblocks them. Messages that it confirms later are
        not sent a second time when they are passed to this function again.

        :raises Exception: if the broker or the connection failed. Part of the batch may have been published.
        """
        with self._closing_on_error():
            if self._connection is None:
                self._connection = self._connect()
            result = self._send(messages)
            if not self.is_blocked:
                self.responded_at = time.monotonic()
            return result

    def send_notifier_canary(self) -> None:
        """Send a message without an event to the notifier's queue alone. Call it after :meth:`check`.

        :raises Exception: if the broker or the connection failed.
        """
        with self._closing_on_error():
            producer = Producer(self._connection.default_channel, auto_declare=False)
            # The default exchange, so that no queue of a service gets the message.
            _publish(producer, BusMessage(NOTIFIER_QUEUE, "{}"), exchange="")

    def close(self) -> None:
        """Close the connection. The next batch opens another one."""
        connection, self._connection = self._connection, None
        self._interrupted = None
        self._confirmed_late.clear()
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.collect(socket_timeout=1)

    @contextlib.contextmanager
    def _closing_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _connect(self) -> Any:
        # Confirms are awaited here once per batch, not by the transport once per message.
        connection = self._app.connection_for_write(transport_options={"confirm_publish": False})
        connection.ensure_connection(max_retries=1, interval_start=0)
        self._declare(connection)
        return connection

    def _declare(self, connection: Any) -> None:
        declare(connection)
        declare_service_queues(connection, self._service_queues)

    # --- Valkey: one pipeline per batch, then every queue cut to its newest messages --------------------------

    def _send_to_valkey(self, messages: Sequence[BusMessage]) -> PublishResult:
        if NOTIFIER_QUEUE not in _queues(self._bindings()):
            # The broker was emptied. Only a new connection declares our queues again, because kombu's old one assumes
            # that they exist. Queues that are not in TOCSIN_SERVICE_QUEUES return with their consumers.
            self.close()
            self._connection = self._connect()
        channel = self._connection.default_channel
        producer = Producer(channel, auto_declare=False)
        with _cached_bindings(channel), producer.batch():
            for message in messages:
                _publish(producer, message)
        self._trim_queues(channel)
        return PublishResult()

    def _bindings(self) -> list[Binding]:
        return drop_damaged_bindings(self._connection.default_channel, EVENTS_EXCHANGE.name)

    def _maintain_bindings(self) -> list[Binding]:
        bindings = self._bindings()
        remove_dead_taps(self._connection.default_channel, EVENTS_EXCHANGE.name, bindings)
        return bindings

    def _trim_queues(self, channel: Any) -> None:
        names = _queues(self._maintain_bindings())
        with channel.conn_or_acquire() as client:
            pipeline = client.pipeline(transaction=False)
            for name in names:
                # Messages are pushed at the head, so the tail is the oldest.
                pipeline.llen(name).ltrim(name, 0, self._max_unread - 1)
            lengths = pipeline.execute()[::2]
        overfull = {name for name, length in zip(names, lengths, strict=True) if length > self._max_unread}
        for name in overfull - self._overfull:
            log.warning("bus.unread_queue_trimmed", queue=name, kept=self._max_unread)
        self._overfull = overfull

    # --- RabbitMQ: a channel per batch, and a batch that an alarm has interrupted is settled later -------------

    def _send_to_rabbitmq(self, messages: Sequence[BusMessage]) -> PublishResult:
        self._maintain_notifier_queue()
        indexes = [index for index, message in enumerate(messages) if message not in self._confirmed_late]
        self._confirmed_late.difference_update(messages)
        batch = SentBatch(self._connection, [messages[index] for index in indexes])
        batch.send(_publish)
        result = PublishResult(
            frozenset(indexes[index] for index in batch.rejected),
            frozenset(indexes[index] for index in batch.unconfirmed),
        )
        if batch.is_settled and not batch.is_blocked:
            batch.close()
        else:
            self._interrupted = batch
            self._awaited = {messages[index] for index in result.unconfirmed}
        return result

    def _settle_interrupted(self) -> None:
        if self._interrupted is None:
            return
        batch = self._interrupted
        batch.wait_until_settled()
        if batch.is_blocked:
            return
        batch.close()
        self._confirmed_late = self._awaited.intersection(batch.confirmed)
        self._interrupted = None

    def _maintain_notifier_queue(self) -> None:
        channel = self._connection.default_channel
        queue = notifier_queue(on_rabbitmq=True)(channel)
        try:
            unread = queue.queue_declare(passive=True).message_count
        except self._connection.channel_errors:
            # The queue was deleted.
            self._declare(self._connection)
        else:
            if unread >= self._max_unread:
                # The messages only announce rows of the events table, and a full queue would reject them.
                queue.purge()
                log.warning("bus.unread_queue_trimmed", queue=NOTIFIER_QUEUE, kept=0)


def _queues(bindings: list[Binding]) -> list[str]:
    return sorted({binding.queue for binding in bindings})


@contextlib.contextmanager
def _cached_bindings(channel: Any) -> Iterator[None]:
    """Read the bindings from Valkey only once per batch.

    kombu would look them up for each message, which would account for three quarters of the cost.
    """
    table = channel.get_table(EVENTS_EXCHANGE.name)
    channel.get_table = lambda _exchange: table
    try:
        yield
    finally:
        del channel.get_table


def _publish(producer: Any, message: BusMessage, *, exchange: str = EVENTS_EXCHANGE.name) -> None:
    producer.publish(
        message.body,
        exchange=exchange,
        routing_key=message.type,
        content_type="application/json",
        content_encoding="utf-8",
        delivery_mode=2,
    )
