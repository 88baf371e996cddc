# kombu is only partly typed, although it is marked as typed.
# mypy: disable-error-code="no-untyped-call"
"""The event bus, which publishes batches of events and wakes the notifier when there are new ones.

The content type of a message is ``application/json``, because neither the guarded transport nor a consumer with kombu's
``accept=["json"]`` accepts ``application/cloudevents+json``.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import structlog
from kombu.messaging import Consumer, Producer

from tasks.app import make_app
from tasks.broker.topology import EVENTS_EXCHANGE, NOTIFIER_QUEUE, declare, declare_service_queues, notifier_queue
from tasks.settings import BrokerSettings

MAX_UNREAD: Final = 100_000
"""The maximum number of messages kept in a queue on Valkey.

Older ones are dropped, because an unread queue must not fill the broker.
"""

CONFIRM_SECONDS: Final = 5.0
"""How many seconds to wait for the next publisher confirm from RabbitMQ."""

CHECK_SECONDS: Final = 5.0
"""How many seconds an idle connection is trusted before it is checked with a request."""

LISTEN_SECONDS: Final = 0.5
"""How many seconds the listener waits for a message before it checks whether to stop."""

log = structlog.get_logger(__name__)


class BusMessage(NamedTuple):
    """An event to publish: its type, which is the routing key, and its CloudEvent as a JSON string."""

    type: str
    body: str


class EventBus:
    """Publishes events to the events exchange. Connects on first use, and is not thread-safe."""

    def __init__(self, settings: BrokerSettings, *, max_unread: int = MAX_UNREAD) -> None:
        self._app = make_app(settings)
        self._on_rabbitmq = not settings.on_redis
        self._send = self._send_to_rabbitmq if self._on_rabbitmq else self._send_to_valkey
        self._request_response = self._maintain_notifier_queue if self._on_rabbitmq else self._bound_queues
        self._service_queues = settings.parsed_service_queues
        self._max_unread = max_unread
        self._connection: Any = None
        self._overfull: set[str] = set()
        self.responded_at = time.monotonic()
        """When the broker last responded to a request, as a time of the monotonic clock."""

    def check(self) -> None:
        """Connect if there is no connection. Otherwise check that the broker has not closed it and still responds.

        :raises Exception: if the broker is unreachable or the connection is lost. The next call opens another one.
        """
        with self._closing_on_error():
            if self._connection is None:
                self._connection = self._connect()
                self.responded_at = time.monotonic()
                return
            if self._on_rabbitmq:
                self._process_incoming()
            if time.monotonic() - self.responded_at > CHECK_SECONDS:
                self._request_response()
                self.responded_at = time.monotonic()

    def publish(self, messages: Sequence[BusMessage]) -> frozenset[int]:
        """Publish the messages in order, and wait until the broker has responded to all of them.

        Return the indexes of the messages that a full RabbitMQ queue refused. All other queues have received these
        messages.

        :raises Exception: if the broker or the connection failed. Part of the batch may have been published.
        """
        with self._closing_on_error():
            if self._connection is None:
                self._connection = self._connect()
            refused = self._send(messages)
            self.responded_at = time.monotonic()
            return refused

    def close(self) -> None:
        """Close the connection. The next batch opens another one."""
        connection, self._connection = self._connection, None
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

    def _send_to_valkey(self, messages: Sequence[BusMessage]) -> frozenset[int]:
        if NOTIFIER_QUEUE not in self._bound_queues():
            # The broker was emptied. Only a new connection declares our queues again, because kombu's old one assumes
            # that they exist. Queues that are not in TOCSIN_SERVICE_QUEUES return with their consumers.
            self.close()
            self._connection = self._connect()
        channel = self._connection.default_channel
        producer = Producer(channel, auto_declare=False)
        with _cached_bindings(channel), producer.batch():
            _publish_all(producer, messages)
        self._trim_queues(channel)
        return frozenset()

    def _bound_queues(self) -> set[str]:
        return {queue for _, _, queue in self._connection.default_channel.get_table(EVENTS_EXCHANGE.name)}

    def _trim_queues(self, channel: Any) -> None:
        names = sorted(self._bound_queues())
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

    # --- RabbitMQ: a channel per batch, so that its delivery tags are 1 to n ----------------------------------

    def _send_to_rabbitmq(self, messages: Sequence[BusMessage]) -> frozenset[int]:
        self._maintain_notifier_queue()
        with self._connection.channel() as channel:
            channel.confirm_select()
            confirms = _Confirms(len(messages))
            channel.events["basic_ack"].add(confirms.on_ack)
            channel.events["basic_nack"].add(confirms.on_nack)
            _publish_all(Producer(channel, auto_declare=False), messages)
            while not confirms.complete:
                self._connection.drain_events(timeout=CONFIRM_SECONDS)
        return frozenset(tag - 1 for tag in confirms.refused)

    def _process_incoming(self) -> None:
        """Process what RabbitMQ has sent without being asked. This also notices that it has closed the connection."""
        with contextlib.suppress(TimeoutError):
            while True:
                self._connection.drain_events(timeout=0)

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
                # The messages only announce rows of the table, and a full queue would refuse events.
                queue.purge()
                log.warning("bus.unread_queue_trimmed", queue=NOTIFIER_QUEUE, kept=0)


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


class _Confirms:
    """Tracks which of a channel's messages, numbered from 1 to ``count``, RabbitMQ has confirmed or refused."""

    def __init__(self, count: int) -> None:
        self._open = set(range(1, count + 1))
        self.refused: set[int] = set()

    @property
    def complete(self) -> bool:
        return not self._open

    def on_ack(self, tag: int, multiple: bool) -> None:
        self._settle(tag, multiple)

    def on_nack(self, tag: int, multiple: bool) -> None:
        self.refused |= self._settle(tag, multiple)

    def _settle(self, tag: int, multiple: bool) -> set[int]:
        settled = {each for each in self._open if each <= tag} if multiple else self._open & {tag}
        self._open -= settled
        return settled


def _publish_all(producer: Any, messages: Iterable[BusMessage]) -> None:
    for message in messages:
        producer.publish(
            message.body,
            exchange=EVENTS_EXCHANGE.name,
            routing_key=message.type,
            content_type="application/json",
            content_encoding="utf-8",
            delivery_mode=2,
        )


class EventBusListener:
    """A background thread that empties the notifier's queue and sets ``woken`` whenever the queue held a message.

    The messages are acknowledged without being read, because the notifier reads the events from the database. While the
    broker is unreachable, the notifier relies on polling.
    """

    def __init__(self, settings: BrokerSettings, woken: threading.Event) -> None:
        self._app = make_app(settings)
        self._queue = notifier_queue(on_rabbitmq=not settings.on_redis)
        self._woken = woken
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bus-listener", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, *, timeout: float = 2.0) -> None:
        """Stop the thread, and wait up to ``timeout`` seconds for it to end."""
        self._stop.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        unreachable = False
        while not self._stop.is_set():
            try:
                self._listen()
            except Exception as error:
                if not unreachable:
                    log.warning("bus.unreachable", error=str(error) or type(error).__name__)
                unreachable = True
                self._stop.wait(1.0)
            else:
                unreachable = False

    def _listen(self) -> None:
        with self._app.connection_for_read() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0)
            declare(connection)
            with Consumer(
                connection.default_channel,
                self._queue,
                on_message=self._on_message,
                prefetch_count=1,
                auto_declare=False,
            ):
                while not self._stop.is_set():
                    with contextlib.suppress(TimeoutError):
                        connection.drain_events(timeout=LISTEN_SECONDS)

    def _on_message(self, message: Any) -> None:
        # The other messages mean the same, and the rows of all of them are committed already.
        self._queue(message.channel).purge()
        message.ack()
        self._woken.set()
