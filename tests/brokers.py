# kombu ships type hints for only some of its functions.
# mypy: disable-error-code="no-untyped-call"
"""One interface to Valkey and RabbitMQ for tests, which inspect queues and stop and restart the broker."""

from __future__ import annotations

import base64
import json
from abc import ABC, abstractmethod
from typing import Any, Final, NamedTuple

import pytest
import redis
from kombu.connection import Connection

from tasks.app import make_app
from tasks.broker.topology import DEAD_QUEUE
from tasks.broker.transport import PARKED
from tasks.settings import BrokerSettings
from tests.rabbitmq import RabbitMQ
from workers.stack.valkey import Valkey

BROKER_PARAMS: Final = ["valkey", pytest.param("rabbitmq", marks=pytest.mark.xdist_group("faults"))]
"""Both brokers, as ``params`` for a fixture. All RabbitMQ tests run in one process and share its node."""

QUORUM_ARGUMENTS: Final = {"x-queue-type": "quorum"}
"""Arguments for a queue that survives a SIGKILL of RabbitMQ. Valkey ignores them."""

UNREACHABLE_BROKER: Final = "redis+socket:///nowhere/valkey.sock"
"""A BROKER_URL that nothing listens on, for processes that must work without a broker."""


def broker_params(*, valkey_group: str) -> list[Any]:
    """Return both brokers as ``params`` for a fixture. The Valkey variant runs in the xdist group `valkey_group`."""
    return [pytest.param("valkey", marks=pytest.mark.xdist_group(valkey_group)), BROKER_PARAMS[1]]


def broker_settings(broker_url: str, **variables: str) -> BrokerSettings:
    """Return the broker settings for a BROKER_URL and additional environment variables."""
    return BrokerSettings.model_validate({"BROKER_URL": broker_url} | variables)


class ReceivedMessage(NamedTuple):
    """A message consumed from a queue; ``payload`` is the decoded JSON body."""

    payload: Any
    content_type: str
    exchange: str
    routing_key: str


class Broker(ABC):
    """The broker for one test, empty at first."""

    def __init__(self, url: str) -> None:
        self.url = url

    @property
    def settings(self) -> BrokerSettings:
        return broker_settings(self.url)

    def connection(self) -> Connection:
        """Open a connection with the production settings."""
        connection: Connection = make_app(self.settings).connection_for_write()
        return connection

    @abstractmethod
    def receive_all(self, queue: str) -> list[ReceivedMessage]:
        """Consume all messages of a queue, oldest first; return an empty list if the queue does not exist."""

    @abstractmethod
    def depth(self, queue: str) -> int:
        """Return the number of messages in a queue, or 0 if the queue does not exist."""

    @abstractmethod
    def parked_count(self) -> int:
        """Return the number of malformed messages that the transport has parked."""

    @abstractmethod
    def is_running(self) -> bool:
        """Return whether the broker is running."""

    def check_nothing_parked(self, request: pytest.FixtureRequest) -> None:
        """Assert, at the end of a test, that no message is parked, unless the test is marked ``parks``.

        A message of ours that our own transport rejects delays work instead of failing it, so other assertions miss it.
        """
        if self.is_running() and not request.node.get_closest_marker("parks"):
            assert self.parked_count() == 0, "the transport has parked messages: see transport.parked in the logs"

    @abstractmethod
    def stop(self) -> None:
        """Kill the broker with SIGKILL."""

    @abstractmethod
    def start(self) -> None:
        """Start the broker again and wait until it is ready."""

    @abstractmethod
    def delete_queues(self) -> None:
        """Delete all queues with their messages."""


def _received_from_valkey(envelope: dict[str, Any]) -> ReceivedMessage:
    delivery = envelope["properties"]["delivery_info"]
    payload = json.loads(base64.b64decode(envelope["body"]))
    return ReceivedMessage(payload, envelope["content-type"], delivery["exchange"], delivery["routing_key"])


class ValkeyBroker(Broker):
    """A private Valkey server; ``client`` is a connection for inspecting it."""

    def __init__(self, server: Valkey) -> None:
        super().__init__(server.broker_url)
        self.server = server
        self.client = redis.Redis.from_url(server.redis_url)

    def receive_all(self, queue: str) -> list[ReceivedMessage]:
        pipeline = self.client.pipeline()
        pipeline.lrange(queue, 0, -1)
        pipeline.delete(queue)
        envelopes, _ = pipeline.execute()
        return [_received_from_valkey(json.loads(envelope)) for envelope in reversed(envelopes)]

    def depth(self, queue: str) -> int:
        return int(self.client.llen(queue))

    def parked_count(self) -> int:
        return self.depth(PARKED)

    def is_running(self) -> bool:
        return self.server.is_running()

    def stop(self) -> None:
        self.server.kill()

    def start(self) -> None:
        self.server.start()
        self.server.wait_ready()

    def delete_queues(self) -> None:
        self.client.flushall()


class RabbitBroker(Broker):
    """A virtual host on a private RabbitMQ node; ``node`` gives access to the management API."""

    def __init__(self, node: RabbitMQ, host: str) -> None:
        super().__init__(node.url(host))
        self.node = node
        self.host = host

    def receive_all(self, queue: str) -> list[ReceivedMessage]:
        count = self.depth(queue)
        if not count:
            return []
        received: list[Any] = []
        with self.connection() as connection:
            channel = connection.default_channel
            # Without this limit, messages that arrive in the meantime would also be consumed, and lost.
            channel.basic_qos(0, count, False)
            channel.basic_consume(queue, callback=received.append)
            while len(received) < count:
                connection.drain_events(timeout=10)
            channel.basic_ack(received[-1].delivery_tag, multiple=True)
        return [
            ReceivedMessage(
                json.loads(message.body),
                message.properties["content_type"],
                message.delivery_info["exchange"],
                message.delivery_info["routing_key"],
            )
            for message in received
        ]

    def depth(self, queue: str) -> int:
        with self.connection() as connection, connection.channel() as channel:
            try:
                return int(channel.queue_declare(queue, passive=True).message_count)
            except connection.channel_errors:
                return 0

    def parked_count(self) -> int:
        return self.depth(DEAD_QUEUE)

    def is_running(self) -> bool:
        return self.node.is_ready()

    def stop(self) -> None:
        self.node.crash()

    def start(self) -> None:
        self.node.restart()

    def delete_queues(self) -> None:
        for queue in self.queues():
            self.node.management_request("DELETE", f"/queues/{self.host}/{queue['name']}")

    def queues(self) -> list[dict[str, Any]]:
        """Return every queue of the virtual host as the management API describes it."""
        found: list[dict[str, Any]] = self.node.management_request("GET", f"/queues/{self.host}")
        return found
