# kombu says that it is typed, and is so in part.
# mypy: disable-error-code="no-untyped-call"
"""A broker as a test sees it, whichever it is: something to publish to, look into, break and mend."""

from __future__ import annotations

import base64
import json
from abc import ABC, abstractmethod
from typing import Any, Final, NamedTuple

import pytest
import redis
from kombu import Connection

from tasks.app import make_app
from tasks.broker.topology import DEAD_QUEUE
from tasks.broker.transport import PARKED
from tasks.settings import BrokerSettings
from tests.rabbitmq import RabbitMQ
from workers.stack.valkey import Valkey

BROKER_PARAMS: Final = ["valkey", pytest.param("rabbitmq", marks=pytest.mark.xdist_group("rabbitmq"))]
"""Both, for a fixture's ``params``; a RabbitMQ is heavy: all that needs it shares one."""

QUORUM_ARGUMENTS: Final = {"x-queue-type": "quorum"}
"""What other services' queues are made of, so that they outlive a broker killed with -9; Valkey does not mind it."""


def broker_params(*, valkey_group: str) -> list[Any]:
    """Both, for the ``params`` of a whole stack; the one on Valkey runs with the tests of the group ``beside``."""
    return [pytest.param("valkey", marks=pytest.mark.xdist_group(valkey_group)), BROKER_PARAMS[1]]


class ReceivedMessage(NamedTuple):
    """A message that lay on a queue."""

    payload: Any
    content_type: str
    exchange: str
    routing_key: str


class Broker(ABC):
    """What one test has of a broker: it is empty at first."""

    def __init__(self, url: str) -> None:
        self.url = url

    @property
    def settings(self) -> BrokerSettings:
        return BrokerSettings(BROKER_URL=self.url)

    def connection(self) -> Connection:
        """A connection as ours are."""
        return make_app(self.settings).connection_for_write()

    @abstractmethod
    def receive_all(self, queue: str) -> list[ReceivedMessage]:
        """Take everything off a queue, oldest first; nothing off one that is not there."""

    @abstractmethod
    def depth(self, queue: str) -> int:
        """How many messages wait on a queue; none on one that is not there."""

    @abstractmethod
    def parked_count(self) -> int:
        """How many messages the guarded transport has put aside."""

    @abstractmethod
    def stop(self) -> None:
        """Kill it with -9."""

    @abstractmethod
    def start(self) -> None:
        """Bring it back."""

    @abstractmethod
    def delete_queues(self) -> None:
        """Take away all queues, with what is on them."""


def _taken_from_valkey(envelope: dict[str, Any]) -> ReceivedMessage:
    address = envelope["properties"]["delivery_info"]
    payload = json.loads(base64.b64decode(envelope["body"]))
    return ReceivedMessage(payload, envelope["content-type"], address["exchange"], address["routing_key"])


class ValkeyBroker(Broker):
    """A Valkey of our own; ``client`` looks into it."""

    def __init__(self, server: Valkey) -> None:
        super().__init__(server.broker_url)
        self.server = server
        self.client = redis.Redis.from_url(server.redis_url)

    def receive_all(self, queue: str) -> list[ReceivedMessage]:
        lying, _ = self.client.pipeline().lrange(queue, 0, -1).delete(queue).execute()
        return [_taken_from_valkey(json.loads(envelope)) for envelope in reversed(lying)]

    def depth(self, queue: str) -> int:
        return int(self.client.llen(queue))

    def parked_count(self) -> int:
        return self.depth(PARKED)

    def stop(self) -> None:
        self.server.kill()

    def start(self) -> None:
        self.server.start()
        self.server.wait_ready()

    def delete_queues(self) -> None:
        self.client.flushall()


class RabbitBroker(Broker):
    """A virtual host on a RabbitMQ of our own; ``node`` can be asked about it."""

    def __init__(self, node: RabbitMQ, host: str) -> None:
        super().__init__(node.url(host))
        self.node = node
        self.host = host

    def receive_all(self, queue: str) -> list[ReceivedMessage]:
        lying = self.depth(queue)
        if not lying:
            return []
        taken: list[Any] = []
        with self.connection() as connection:
            channel = connection.default_channel
            # No more than these: what comes meanwhile would be taken, too, and lost.
            channel.basic_qos(0, lying, False)
            channel.basic_consume(queue, callback=taken.append)
            while len(taken) < lying:
                connection.drain_events(timeout=10)
            channel.basic_ack(taken[-1].delivery_tag, multiple=True)
        return [
            ReceivedMessage(
                json.loads(message.body),
                message.properties["content_type"],
                message.delivery_info["exchange"],
                message.delivery_info["routing_key"],
            )
            for message in taken
        ]

    def depth(self, queue: str) -> int:
        with self.connection() as connection, connection.channel() as channel:
            try:
                return int(channel.queue_declare(queue, passive=True).message_count)
            except connection.channel_errors:
                return 0

    def parked_count(self) -> int:
        return self.depth(DEAD_QUEUE)

    def stop(self) -> None:
        self.node.crash()

    def start(self) -> None:
        self.node.restart()

    def delete_queues(self) -> None:
        for queue in self.queues():
            self.node.management_request("DELETE", f"/queues/{self.host}/{queue['name']}")

    def queues(self) -> list[dict[str, Any]]:
        """Every queue here, as its management describes it."""
        found: list[dict[str, Any]] = self.node.management_request("GET", f"/queues/{self.host}")
        return found
