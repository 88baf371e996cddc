# kombu is only partly typed, although it is marked as typed.
# mypy: disable-error-code="no-untyped-call"
"""A batch of messages on its way to RabbitMQ, and which of them RabbitMQ has confirmed or rejected."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from kombu.messaging import Producer

from tasks.broker.blocking import send_probe

CONFIRM_SECONDS: Final = 5.0
"""How many seconds to wait for the next publisher confirm from RabbitMQ."""

BLOCKED_CONFIRM_SECONDS: Final = 0.2
"""How many seconds to wait for the next confirm of what RabbitMQ accepted before it blocked the connection."""

SEND_SECONDS: Final = 4.0
"""How many seconds a batch may take to be sent and confirmed. It is limited because the relay holds a transaction."""

MAX_IN_FLIGHT_BYTES: Final = 256 * 1024
"""How many bytes of message bodies may be sent but not yet confirmed.

RabbitMQ does not read from a connection that it blocks. If more was in flight than the sockets can buffer, the sender
would wait in a write, in which it cannot read that it is blocked, and the connection would be lost when the write times
out.
"""

_PROBE_TAG: Final = 1


class BusMessage(NamedTuple):
    """An event to publish: its type, which is the routing key, and its CloudEvent as a JSON string."""

    type: str
    body: str


class SentBatch:
    """Messages sent on a channel of their own, which numbers them from 2. The first message is a probe.

    As soon as RabbitMQ blocks the connection, no more messages are sent. If it blocks publishers from the start, only
    the probe is sent.
    """

    def __init__(self, connection: Any, messages: Sequence[BusMessage]) -> None:
        """Open the channel.

        :raises Exception: the connection failed.
        """
        self._messages = messages
        self._connection = connection
        self._deadline = time.monotonic() + SEND_SECONDS
        self._channel = connection.channel()
        self._channel.confirm_select()
        self._channel.events["basic_ack"].add(self._on_ack)
        self._channel.events["basic_nack"].add(self._on_nack)
        self._sent = 0
        self._open: dict[int, int] = {}
        """The sizes in bytes of the messages that were sent but not yet confirmed or rejected, by tag."""
        self._rejected: set[int] = set()

    @property
    def is_blocked(self) -> bool:
        """Whether RabbitMQ blocks the connection, as far as its frames have been read."""
        return self._channel.connection.blocked_reason is not None

    @property
    def rejected(self) -> frozenset[int]:
        """The indexes of the messages that RabbitMQ has rejected."""
        return frozenset(tag - _PROBE_TAG - 1 for tag in self._rejected)

    @property
    def confirmed(self) -> list[BusMessage]:
        """The messages that RabbitMQ has confirmed."""
        others = self.unconfirmed | self.rejected
        return [message for index, message in enumerate(self._messages) if index not in others]

    @property
    def unconfirmed(self) -> frozenset[int]:
        """The indexes of the messages that were not sent, or that RabbitMQ has neither confirmed nor rejected yet."""
        indexes = range(len(self._messages))
        return frozenset(
            index for index in indexes if index + 1 + _PROBE_TAG in self._open or index + 1 + _PROBE_TAG > self._sent
        )

    @property
    def is_settled(self) -> bool:
        """Whether RabbitMQ has confirmed or rejected everything that was sent."""
        return not self._open

    def send(self, publish: Callable[[Producer, BusMessage], None]) -> None:
        """Send the messages with ``publish``, and wait until RabbitMQ has confirmed or rejected them.

        Stop as soon as RabbitMQ blocks the connection, or after about ``SEND_SECONDS``.

        :raises Exception: the connection failed, or RabbitMQ does not respond.
        """
        self._count(0)
        send_probe(self._channel)
        while _PROBE_TAG in self._open and not self.is_blocked:
            self._connection.drain_events(timeout=CONFIRM_SECONDS)
        producer = Producer(self._channel, auto_declare=False)
        for message in self._messages:
            while sum(self._open.values()) > MAX_IN_FLIGHT_BYTES and self._may_send:
                self._connection.drain_events(timeout=CONFIRM_SECONDS)
            if not self._may_send:
                break
            self._count(len(message.body.encode()))
            publish(producer, message)
        while self._open and time.monotonic() < self._deadline:
            try:
                self._connection.drain_events(timeout=BLOCKED_CONFIRM_SECONDS if self.is_blocked else CONFIRM_SECONDS)
            except TimeoutError:
                if self.is_blocked:
                    return
                raise

    def wait_until_settled(self) -> None:
        """Wait until RabbitMQ, having unblocked the connection, has confirmed or rejected everything that was sent.

        :raises Exception: the connection failed, or RabbitMQ does not respond.
        """
        while self._open and not self.is_blocked:
            self._connection.drain_events(timeout=CONFIRM_SECONDS)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    @property
    def _may_send(self) -> bool:
        return not self.is_blocked and time.monotonic() < self._deadline

    def _count(self, size: int) -> None:
        self._sent += 1
        self._open[self._sent] = size

    def _on_ack(self, tag: int, multiple: bool) -> None:
        self._settle(tag, multiple)

    def _on_nack(self, tag: int, multiple: bool) -> None:
        self._rejected |= self._settle(tag, multiple)

    def _settle(self, tag: int, multiple: bool) -> set[int]:
        settled = {each for each in self._open if each <= tag} if multiple else self._open.keys() & {tag}
        for each in settled:
            del self._open[each]
        return settled
