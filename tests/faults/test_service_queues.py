# kombu is marked as typed but only partly annotated.
# mypy: disable-error-code="no-untyped-call"
"""The relay declares and binds the queues in TOCSIN_SERVICE_QUEUES on each new connection, before it publishes."""

from __future__ import annotations

import json

import pytest
from kombu.entity import Queue

from tasks.broker.topology import EVENTS_EXCHANGE, declare, topology_errors
from tasks.service_queues import ServiceQueue
from tasks.settings import BrokerSettings
from tests.brokers import Broker, RabbitBroker, broker_settings
from tests.conftest import Database
from tests.faults.relay_harness import insert_events, publish_all, unpublished_count
from tests.journeys.subprocesses import run_tocsin
from workers.relay.event_bus import EventBus
from workers.relay.relay import Relay
from workers.relay.sent_batch import BusMessage
from workers.stack.servers import EmbeddedServers

OPENED = BusMessage("incident.opened", "1")
DEAD = BusMessage("command.dead", "2")


def with_service_queues(broker: Broker, text: str = "billing=incident.*") -> BrokerSettings:
    return broker_settings(broker.url, service_queues=text)


def delete_binding(broker: RabbitBroker, queue: str, key: str) -> None:
    with broker.connection() as connection:
        connection.default_channel.queue_unbind(queue, EVENTS_EXCHANGE.name, key)


def payloads(broker: Broker, queue: str) -> list[object]:
    return [message.payload for message in broker.receive_all(queue)]


def test_service_queues_receive_the_first_events_that_match_their_keys(broker: Broker) -> None:
    bus = EventBus(with_service_queues(broker, "billing=incident.*;audit=incident.opened,command.dead"))

    bus.publish([OPENED, DEAD])

    assert payloads(broker, "billing") == [1]
    assert payloads(broker, "audit") == [1, 2]


def test_a_lost_binding_is_restored_on_reconnection_and_its_queue_receives_events(
    database: Database, rabbitmq: RabbitBroker
) -> None:
    EventBus(with_service_queues(rabbitmq)).publish([OPENED])
    delete_binding(rabbitmq, "billing", "incident.*")
    insert_events(database.engine, subjects=1, per_subject=2)

    publish_all(Relay(database.engine, with_service_queues(rabbitmq)))

    assert unpublished_count(database.engine) == 0
    assert rabbitmq.depth("billing") == 3


def test_service_queues_are_declared_again_after_a_broker_wipe(broker: Broker) -> None:
    bus = EventBus(with_service_queues(broker))
    bus.publish([OPENED])
    broker.delete_queues()

    bus.publish([OPENED])

    assert payloads(broker, "billing") == [1]


def test_a_service_queue_is_a_durable_quorum_queue_that_drops_its_oldest_events(rabbitmq: RabbitBroker) -> None:
    EventBus(with_service_queues(rabbitmq)).publish([OPENED])

    [queue] = [queue for queue in rabbitmq.queues() if queue["name"] == "billing"]

    assert queue["durable"] is True
    assert queue["arguments"] == {
        "x-queue-type": "quorum",
        "x-max-length": 1_000_000,
        "x-overflow": "drop-head",
    }


def test_a_queue_that_its_service_has_declared_keeps_its_arguments_and_is_bound(rabbitmq: RabbitBroker) -> None:
    with rabbitmq.connection() as connection:
        Queue("billing", durable=True, queue_arguments={"x-max-length": 5})(connection.default_channel).declare()

    EventBus(with_service_queues(rabbitmq)).publish([OPENED])

    assert payloads(rabbitmq, "billing") == [1]


def test_the_other_service_queues_receive_events_if_one_cannot_be_bound(
    rabbitmq: RabbitBroker,
) -> None:
    with rabbitmq.connection() as connection:
        Queue("billing", exclusive=True, durable=False)(connection.default_channel).declare()

        EventBus(with_service_queues(rabbitmq, "billing=#;audit=#")).publish([OPENED])

    assert payloads(rabbitmq, "audit") == [1]


def test_a_missing_service_queue_is_a_topology_error(rabbitmq: RabbitBroker) -> None:
    with rabbitmq.connection() as connection:
        declare(connection)

        [found] = topology_errors(connection, [ServiceQueue("billing", ("#",))])

    assert found.startswith("the queue billing is missing: start `tocsin relay`")


@pytest.mark.slow
def test_the_doctor_reports_a_missing_service_queue(
    database: Database, servers: EmbeddedServers, rabbitmq: RabbitBroker
) -> None:
    with rabbitmq.connection() as connection:
        declare(connection)

    done = run_tocsin(
        "doctor",
        "--json",
        DATABASE_URL=database.url,
        BROKER_URL=rabbitmq.url,
        REDIS_URL=servers.redis_url,
        TOCSIN_SERVICE_QUEUES="billing=#",
    )

    [says] = [check["says"] for check in json.loads(done.stdout)["checks"] if check["check"] == "topology"]
    assert says.startswith("the queue billing is missing: ")
