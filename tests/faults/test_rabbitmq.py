# kombu is marked as typed but only partly annotated.
# mypy: disable-error-code="no-untyped-call"
"""Tests specific to RabbitMQ: the declared topology, and queues that reject messages when full."""

from __future__ import annotations

import json

import pytest
from kombu.entity import Exchange, Queue

from gateway.settings import GatewaySettings
from models.enums import Lane
from tasks.app import make_app
from tasks.broker.hint_publisher import HintPublisher
from tasks.broker.topology import DEAD_EXCHANGE, DEAD_QUEUE, EVENTS_EXCHANGE, NOTIFIER_QUEUE, declare, topology_errors
from tests.brokers import QUORUM_ARGUMENTS, RabbitBroker
from tests.conftest import Database
from tests.faults.relay_harness import Subscriber, insert_events, running_relays, unpublished_count
from tests.http.gateway_server import running_gateway
from tests.journeys.subprocesses import run_tocsin
from tests.waiting import eventually
from workers.relay.event_bus import EventBus, PublishResult
from workers.relay.relay import RejectedEvents, Relay
from workers.relay.sent_batch import BusMessage
from workers.stack.servers import EmbeddedServers

pytestmark = pytest.mark.xdist_group("faults")

FULL_QUEUE_ARGUMENTS = {"x-max-length": 3, "x-overflow": "reject-publish"}
"""Arguments for a classic queue, whose length limit is exact."""

FULL_QUEUE = "a.full.queue"


@pytest.fixture
def declared(rabbitmq: RabbitBroker) -> RabbitBroker:
    """A RabbitMQ virtual host with all exchanges and queues declared."""
    with rabbitmq.connection() as connection:
        declare(connection)
    return rabbitmq


@pytest.fixture
def subscriber(declared: RabbitBroker) -> Subscriber:
    """A subscriber whose queue has no limit, beside a queue that rejects all but three events."""
    service = Subscriber(declared)
    service.subscribe("#")
    bind_queue(declared, FULL_QUEUE, FULL_QUEUE_ARGUMENTS)
    return service


# --- topology ----------------------------------------------------------------------------------------------------


def test_every_queue_is_replicated_and_bounded_with_at_least_once_dead_lettering(declared: RabbitBroker) -> None:
    queues = {queue["name"]: queue["arguments"] for queue in declared.queues()}
    dead = queues.pop(DEAD_QUEUE)

    assert queues.keys() == {lane.value for lane in Lane} | {NOTIFIER_QUEUE}
    for arguments in queues.values():
        limit = arguments.pop("x-max-length")
        assert limit > 0
        assert arguments == {
            "x-queue-type": "quorum",
            "x-delivery-limit": 20,
            "x-dead-letter-exchange": DEAD_EXCHANGE.name,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }
    assert dead["x-queue-type"] == "quorum"


def test_the_events_exchange_is_a_durable_topic_exchange(declared: RabbitBroker) -> None:
    exchange = declared.node.management_request("GET", f"/exchanges/{declared.host}/{EVENTS_EXCHANGE.name}")

    assert (exchange["type"], exchange["durable"], exchange["auto_delete"]) == ("topic", True, False)


def test_publishers_wait_for_confirms_with_a_timeout(rabbitmq: RabbitBroker) -> None:
    options = make_app(rabbitmq.settings).conf.broker_transport_options

    assert (options["confirm_publish"], options["read_timeout"]) == (True, 5)


def test_checking_the_topology_declares_nothing_and_succeeds_after_a_declaration(rabbitmq: RabbitBroker) -> None:
    with rabbitmq.connection() as connection:
        [missing] = topology_errors(connection)
        found_after = rabbitmq.queues()
        declare(connection)

        assert topology_errors(connection) == []
    assert "the exchange tocsin.events, the queue commands, " in missing
    assert missing.endswith(" are missing: start `tocsin relay` (restart it, if it runs), which declares them")
    assert found_after == []


@pytest.mark.parametrize(
    ("arguments", "difference"),
    [
        ({}, "x-queue-type"),
        (QUORUM_ARGUMENTS, "x-delivery-limit"),
        ({"x-queue-type": "stream"}, "x-queue-type"),
    ],
)
def test_the_error_for_a_queue_with_wrong_arguments_states_the_difference_and_the_fix(
    rabbitmq: RabbitBroker, arguments: dict[str, object], difference: str
) -> None:
    with rabbitmq.connection() as connection:
        Queue("bulk", durable=True, queue_arguments=arguments)(connection.default_channel).declare()

        [found] = [each for each in topology_errors(connection) if "missing" not in each]

    assert found.startswith("the queue bulk differs from its declaration (inequivalent arg '")
    assert found.endswith("delete it on RabbitMQ, which loses no work, then restart `tocsin relay`")
    assert difference in found or "x-dead-letter" in found or "x-max-length" in found


def test_an_existing_exchange_of_the_wrong_type_is_named_in_the_error(rabbitmq: RabbitBroker) -> None:
    with rabbitmq.connection() as connection:
        Exchange(EVENTS_EXCHANGE.name, type="direct", durable=True)(connection.default_channel).declare()

        [found] = [each for each in topology_errors(connection) if "missing" not in each]

    assert found.startswith("the exchange tocsin.events differs from its declaration (inequivalent arg 'type'")
    assert found.endswith("restart `tocsin relay` and the services whose queues were bound to it")


def test_missing_permissions_are_reported_with_the_command_that_grants_them(declared: RabbitBroker) -> None:
    rights = f"/permissions/{declared.host}/guest"
    declared.node.management_request("PUT", rights, {"configure": "^tocsin", "write": ".*", "read": ".*"})

    with declared.connection() as connection:
        found = topology_errors(connection)

    assert [sentence.partition(" (")[0] for sentence in found] == [
        f"the queue {lane.value} cannot be inspected" for lane in Lane
    ]
    assert all("`rabbitmqctl set_permissions`" in sentence for sentence in found)


def test_the_doctor_reports_a_missing_queue_until_it_is_declared(
    declared: RabbitBroker, database: Database, servers: EmbeddedServers
) -> None:
    settings = {"DATABASE_URL": database.url, "BROKER_URL": declared.url, "REDIS_URL": servers.redis_url}

    def run_doctor() -> tuple[int, str]:
        done = run_tocsin("doctor", "--json", **settings)
        [message] = [check["says"] for check in json.loads(done.stdout)["checks"] if check["check"] == "topology"]
        return done.returncode, message

    with declared.connection() as connection:
        connection.default_channel.queue_delete("bulk")
        before = run_doctor()
        declare(connection)

    assert before == (1, "the queue bulk is missing: start `tocsin relay` (restart it, if it runs), which declares it")
    assert run_doctor() == (0, "every exchange and queue is as this release declares it")


def test_readiness_reports_missing_queues_as_degraded(
    rabbitmq: RabbitBroker, database: Database, servers: EmbeddedServers
) -> None:
    known = {"DATABASE_URL": database.url, "BROKER_URL": rabbitmq.url, "REDIS_URL": servers.redis_url}
    settings = GatewaySettings(_env_file=None, **known)  # type: ignore[call-arg, arg-type]

    with running_gateway(settings) as gateway:

        def topology_check() -> dict[str, str]:
            response = gateway.get("/readyz?verbose", by=None)
            assert response.status_code == 200
            # On a slow machine the broker may not respond in time.
            found: dict[str, str] = response.json()["checks"].get("topology", {})
            return found

        before = eventually(topology_check)
        with rabbitmq.connection() as connection:
            declare(connection)
        after = eventually(topology_check)

    assert before["status"] == "degraded"
    assert "the queue commands, " in before["detail"]
    assert after == {"status": "ok", "detail": "as declared"}


# --- full queues -------------------------------------------------------------------------------------------------


def test_a_full_queue_does_not_block_events_for_other_queues(database: Database, subscriber: Subscriber) -> None:
    insert_events(database.engine, subjects=150, per_subject=2)

    def received() -> list[list[int]]:
        return [list(dict.fromkeys(numbers)) for numbers in subscriber.sequences().values()]

    with running_relays(Relay(database.engine, subscriber.settings)):
        eventually(lambda: received() == [[1, 2]] * 150)


def test_events_rejected_by_a_full_queue_are_published_again_once_there_is_room(
    database: Database, subscriber: Subscriber
) -> None:
    insert_events(database.engine, subjects=5, per_subject=1)
    relay = Relay(database.engine, subscriber.settings, rejected_events=RejectedEvents(delays_seconds=(0, 0)))
    relay.publish_batch()
    assert unpublished_count(database.engine) == 2
    first = [message.payload["subject"] for message in subscriber.broker.receive_all(FULL_QUEUE)]

    while unpublished_count(database.engine):
        relay.publish_batch()

    rest = [message.payload["subject"] for message in subscriber.broker.receive_all(FULL_QUEUE)]
    assert len({*first, *rest}) == 5


def test_publishing_to_a_queue_that_stays_full_is_abandoned_after_a_few_attempts(
    database: Database, subscriber: Subscriber
) -> None:
    insert_events(database.engine, subjects=5, per_subject=1)
    relay = Relay(database.engine, subscriber.settings, rejected_events=RejectedEvents(delays_seconds=(0, 0)))

    while relay.publish_batch():
        pass

    assert unpublished_count(database.engine) == 0
    assert sorted(len(numbers) for numbers in subscriber.sequences().values()) == [1, 1, 1, 3, 3]


def test_the_number_of_rejected_events_kept_for_retry_is_bounded(database: Database, subscriber: Subscriber) -> None:
    insert_events(database.engine, subjects=10, per_subject=1)
    relay = Relay(
        database.engine, subscriber.settings, rejected_events=RejectedEvents(delays_seconds=(600,), max_deferred=4)
    )

    while relay.publish_batch():
        pass

    assert unpublished_count(database.engine) == 4


def test_the_notifiers_queue_is_purged_before_it_becomes_full(declared: RabbitBroker) -> None:
    bus = EventBus(declared.settings, max_unread=50)

    for _ in range(4):
        assert bus.publish([BusMessage("incident.opened", "1")] * 40) == PublishResult()

    assert declared.depth(NOTIFIER_QUEUE) == 80


def test_a_full_lane_does_not_block_hints_for_other_lanes(declared: RabbitBroker) -> None:
    limit_queue_length(declared, Lane.BULK, 1)
    publisher = HintPublisher(make_app(declared.settings))
    for lane in (Lane.BULK, Lane.COMMANDS, Lane.DELIVERIES):
        # Three messages for each lane.
        publisher.publish(lane, (f"incident:1:{number}" for number in range(1500)))

    publisher.start()
    publisher.stop(timeout=30)

    assert declared.depth(Lane.BULK) < 3
    assert (declared.depth(Lane.COMMANDS), declared.depth(Lane.DELIVERIES)) == (3, 3)


def bind_queue(broker: RabbitBroker, name: str, limits: dict[str, object]) -> None:
    """Bind a queue of this name to all events."""
    with broker.connection() as connection:
        queue = Queue(name, EVENTS_EXCHANGE, routing_key="#", queue_arguments=limits)
        queue(connection.default_channel).declare()


def limit_queue_length(broker: RabbitBroker, queue: str, length: int) -> None:
    """Set a policy that limits a queue's length."""
    policy = {"pattern": f"^{queue}$", "definition": {"max-length": length}, "apply-to": "queues"}
    broker.node.management_request("PUT", f"/policies/{broker.host}/small", policy)
