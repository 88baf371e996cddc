# kombu says that it is typed, and is so in part.
# mypy: disable-error-code="no-untyped-call"
"""The events bus from our side: publish a batch of events, and hear that there are new ones.

A message's content type is ``application/json``, not ``application/cloudevents+json``: that is what consumers with
kombu's ``accept=["json"]`` read, and what the guarded transport lets pass.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import structlog
from kombu.messaging import Consumer, Producer

from tasks.app import make_app
from tasks.broker.topology import EVENTS_EXCHANGE, NOTIFIER_QUEUE, declare, notifier_queue
from tasks.settings import BrokerSettings

MAX_UNREAD: Final = 100_000
"""How many messages a queue on Valkey keeps, the newest ones: an unread queue must not fill the broker."""

CONFIRM_SECONDS: Final = 5.0
"""How long RabbitMQ may take to confirm a batch."""

LISTEN_SECONDS: Final = 0.5
"""How long the listener waits for a message before it looks whether it shall end."""

log = structlog.get_logger(__name__)


class BusMessage(NamedTuple):
    """An event on its way out: its type, and its CloudEvent as a string of JSON."""

    type: str
    body: str


class EventBus:
    """Publishes to the exchange of events. Not for several threads at once; connects when it is first used."""

    def __init__(self, settings: BrokerSettings, *, max_unread: int = MAX_UNREAD) -> None:
        self._app = make_app(settings)
        self._send = self._send_to_valkey if settings.on_redis else self._send_to_rabbitmq
        self._max_unread = max_unread
        self._connection: Any = None
        self._overfull: set[str] = set()

    def publish(self, messages: Sequence[BusMessage]) -> frozenset[int]:
        """Publish in this order; when it returns the broker has them all.

        What it returns are the places of messages that some queue on RabbitMQ refused, since it is full and was
        declared to refuse; every other queue has them.

        :raises Exception: any fault of the broker or of the way there; the batch may be published in part.
        """
        try:
            if self._connection is None:
                self._connection = self._connect()
            return self._send(messages)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Hang up; the next batch connects again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.collapse(socket_timeout=1)

    def _connect(self) -> Any:
        # Confirms are waited for per batch, here, and not per message in the transport.
        connection = self._app.connection_for_write(transport_options={"confirm_publish": False})
        connection.ensure_connection(max_retries=1, interval_start=0)
        declare(connection)
        return connection

    # --- Valkey: one pipeline per batch, then every queue cut to its newest messages --------------------------

    def _send_to_valkey(self, messages: Sequence[BusMessage]) -> frozenset[int]:
        if NOTIFIER_QUEUE not in self._bound_queues():
            # Somebody wiped the broker. Ours come back with a new connection, kombu's old one thinks they are there;
            # those of others come back with their consumers.
            self.close()
            self._connection = self._connect()
        channel = self._connection.default_channel
        producer = Producer(channel, auto_declare=False)
        with _bindings_held(channel), producer.batch():
            _publish_all(producer, messages)
        self._cut(channel)
        return frozenset()

    def _bound_queues(self) -> set[str]:
        return {queue for _, _, queue in self._connection.default_channel.get_table(EVENTS_EXCHANGE.name)}

    def _cut(self, channel: Any) -> None:
        names = sorted(self._bound_queues())
        with channel.conn_or_acquire() as client:
            pipeline = client.pipeline(transaction=False)
            for name in names:
                # New messages are pushed at the head: the tail is the oldest.
                pipeline.llen(name).ltrim(name, 0, self._max_unread - 1)
            lengths = pipeline.execute()[::2]
        overfull = {name for name, length in zip(names, lengths, strict=True) if length > self._max_unread}
        for name in overfull - self._overfull:
            log.warning("bus.unread_queue_cut", queue=name, kept=self._max_unread)
        self._overfull = overfull

    # --- RabbitMQ: a channel per batch, so that its delivery tags are 1 to n ----------------------------------

    def _send_to_rabbitmq(self, messages: Sequence[BusMessage]) -> frozenset[int]:
        self._look_after_the_notifiers_queue()
        with self._connection.channel() as channel:
            channel.confirm_select()
            confirms = _Confirms(len(messages))
            channel.events["basic_ack"].add(confirms.on_ack)
            channel.events["basic_nack"].add(confirms.on_nack)
            _publish_all(Producer(channel, auto_declare=False), messages)
            while not confirms.complete:
                self._connection.drain_events(timeout=CONFIRM_SECONDS)
        return frozenset(tag - 1 for tag in confirms.refused)

    def _look_after_the_notifiers_queue(self) -> None:
        channel = self._connection.default_channel
        queue = notifier_queue(on_rabbitmq=True)(channel)
        try:
            unread = queue.queue_declare(passive=True).message_count
        except self._connection.channel_errors:
            # Somebody deleted it.
            declare(self._connection)
        else:
            if unread >= self._max_unread:
                # Hints, whose rows wait in the table: one is as good as all. It must never be full and refuse.
                queue.purge()
                log.warning("bus.unread_queue_cut", queue=NOTIFIER_QUEUE, kept=0)


@contextlib.contextmanager
def _bindings_held(channel: Any) -> Iterator[None]:
    """Let kombu ask Valkey for the bindings once: it would for every message, three quarters of the whole cost."""
    table = channel.get_table(EVENTS_EXCHANGE.name)
    channel.get_table = lambda _exchange: table
    try:
        yield
    finally:
        del channel.get_table


class _Confirms:
    """What RabbitMQ has said so far of the messages 1 to n of a channel."""

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
    """Empties the notifier's queue in a thread of its own, and sets ``woken`` whenever something lay there.

    A message is only a hint: it is acknowledged unread. With the broker away nothing is heard, and who waits polls.
    """

    def __init__(self, settings: BrokerSettings, woken: threading.Event) -> None:
        self._app = make_app(settings)
        self._queue = notifier_queue(on_rabbitmq=not settings.on_redis)
        self._woken = woken
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen_for_ever, name="bus-listener", daemon=True)

    def start(self) -> None:
        """Start listening."""
        self._thread.start()

    def stop(self, *, timeout: float = 2.0) -> None:
        """End listening."""
        self._stop.set()
        self._thread.join(timeout)

    def _listen_for_ever(self) -> None:
        away = False
        while not self._stop.is_set():
            try:
                self._listen()
            except Exception as fault:
                if not away:
                    log.warning("bus.away", error=str(fault) or type(fault).__name__)
                away = True
                self._stop.wait(1.0)
            else:
                away = False

    def _listen(self) -> None:
        with self._app.connection_for_read() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0)
            declare(connection)
            with Consumer(
                connection.default_channel,
                self._queue,
                on_message=self._hear,
                prefetch_count=1,
                auto_declare=False,
            ):
                while not self._stop.is_set():
                    with contextlib.suppress(TimeoutError):
                        connection.drain_events(timeout=LISTEN_SECONDS)

    def _hear(self, message: Any) -> None:
        # Whatever lies behind it says the same; the rows of all of them are committed already.
        self._queue(message.channel).purge()
        message.ack()
        self._woken.set()
