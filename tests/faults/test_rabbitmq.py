# kombu says that it is typed, and is so in part.
# mypy: disable-error-code="no-untyped-call"
"""What RabbitMQ has of its own: queues with a shape, and queues that refuse."""

from __future__ import annotations

import json

import pytest
from kombu import Exchange, Queue

from gateway.settings import GatewaySettings
from models.enums import Lane
from tasks.app import make_app
from tasks.broker.hint_publisher import HintPublisher
from tasks.broker.topology import DEAD_EXCHANGE, DEAD_QUEUE, EVENTS_EXCHANGE, NOTIFIER_QUEUE, declare, topology_errors
from tests.brokers import QUORUM_ARGUMENTS, RabbitBroker
from tests.conftest import Database
from tests.faults.test_relay import Subscriber, given_events, going, unannounced
from tests.http.doorway import running_gateway
from tests.journeys.programs import tocsin
from tests.waiting import eventually
from workers.event_bus import BusMessage, EventBus
from workers.relay.relay import RefusedEvents, Relay
from workers.stack.servers import EmbeddedServers

pytestmark = pytest.mark.xdist_group("rabbitmq")

FULL = {"x-max-length": 3, "x-overflow": "reject-publish"}
"""Of a classic queue, whose limit is exact."""

THE_REFUSER = "a.full.queue"


@pytest.fixture
def declared(rabbitmq: RabbitBroker) -> RabbitBroker:
    """A RabbitMQ with all that is ours on it."""
    with rabbitmq.connection() as connection:
        declare(connection)
    return rabbitmq


@pytest.fixture
def subscriber(declared: RabbitBroker) -> Subscriber:
    """A service with room for everything, beside one whose queue takes three events and refuses the rest."""
    service = Subscriber(declared)
    service.subscribe("#")
    bind(declared, THE_REFUSER, FULL)
    return service


# --- the shape of the queues -----------------------------------------------------------------------------------


def test_every_queue_of_ours_is_replicated_bounded_and_loses_no_dead_letter(declared: RabbitBroker) -> None:
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


def test_the_exchange_of_events_is_a_durable_topic(declared: RabbitBroker) -> None:
    exchange = declared.node.ask("GET", f"/exchanges/{declared.host}/{EVENTS_EXCHANGE.name}")

    assert (exchange["type"], exchange["durable"], exchange["auto_delete"]) == ("topic", True, False)


def test_publishers_wait_for_confirms_and_nobody_waits_for_ever(rabbitmq: RabbitBroker) -> None:
    options = make_app(rabbitmq.settings).conf.broker_transport_options

    assert (options["confirm_publish"], options["read_timeout"]) == (True, 5)


def test_what_is_as_declared_is_found_so_and_looking_changes_nothing(rabbitmq: RabbitBroker) -> None:
    with rabbitmq.connection() as connection:
        [missing] = topology_errors(connection)
        found_after = rabbitmq.queues()
        declare(connection)

        assert topology_errors(connection) == []
    assert "the exchange tocsin.events, the queue commands, " in missing
    assert missing.endswith(" are missing: start `tocsin relay` (anew, if it runs), which declares them")
    assert found_after == []


@pytest.mark.parametrize(
    ("shape", "difference"),
    [
        ({}, "x-queue-type"),
        (QUORUM_ARGUMENTS, "x-delivery-limit"),
        ({"x-queue-type": "stream"}, "x-queue-type"),
    ],
)
def test_a_queue_of_another_shape_is_named_with_its_difference_and_the_fix(
    rabbitmq: RabbitBroker, shape: dict[str, object], difference: str
) -> None:
    with rabbitmq.connection() as connection:
        Queue("bulk", durable=True, queue_arguments=shape)(connection.default_channel).declare()

        [found] = [each for each in topology_errors(connection) if "missing" not in each]

    assert found.startswith("the queue bulk is not as we declare it (inequivalent arg '")
    assert found.endswith("delete it on RabbitMQ, no work is lost, then start `tocsin relay` anew")
    assert difference in found or "x-dead-letter" in found or "x-max-length" in found


def test_an_exchange_of_another_type_is_named(rabbitmq: RabbitBroker) -> None:
    with rabbitmq.connection() as connection:
        Exchange(EVENTS_EXCHANGE.name, type="direct", durable=True)(connection.default_channel).declare()

        [found] = [each for each in topology_errors(connection) if "missing" not in each]

    assert found.startswith("the exchange tocsin.events is not as we declare it (inequivalent arg 'type'")
    assert found.endswith("`tocsin relay` and the services whose queues were bound to it anew")


def test_a_user_who_may_not_declare_is_told_the_rights_that_are_missing(declared: RabbitBroker) -> None:
    rights = f"/permissions/{declared.host}/guest"
    declared.node.ask("PUT", rights, {"configure": "^tocsin", "write": ".*", "read": ".*"})

    with declared.connection() as connection:
        found = topology_errors(connection)

    assert [sentence.partition(" (")[0] for sentence in found] == [
        f"the queue {lane.value} may not be looked at" for lane in Lane
    ]
    assert all("`rabbitmqctl set_permissions`" in sentence for sentence in found)


def test_the_doctor_says_what_is_wrong_with_the_queues_and_is_content_once_it_is_mended(
    declared: RabbitBroker, database: Database, servers: EmbeddedServers
) -> None:
    settings = {"DATABASE_URL": database.url, "BROKER_URL": declared.url, "REDIS_URL": servers.redis_url}

    def ask() -> tuple[int, str]:
        done = tocsin("doctor", "--json", **settings)
        [said] = [check["says"] for check in json.loads(done.stdout)["checks"] if check["check"] == "topology"]
        return done.returncode, said

    with declared.connection() as connection:
        connection.default_channel.queue_delete("bulk")
        ill = ask()
        declare(connection)

    assert ill == (1, "the queue bulk is missing: start `tocsin relay` (anew, if it runs), which declares it")
    assert ask() == (0, "every exchange and queue is as this release declares it")


def test_readiness_tells_of_queues_that_are_missing_and_stays_ready(
    rabbitmq: RabbitBroker, database: Database, servers: EmbeddedServers
) -> None:
    known = {"DATABASE_URL": database.url, "BROKER_URL": rabbitmq.url, "REDIS_URL": servers.redis_url}
    settings = GatewaySettings(_env_file=None, **known)  # type: ignore[call-arg, arg-type]

    with running_gateway(settings) as gateway:

        def look() -> dict[str, str]:
            answer = gateway.get("/readyz?verbose", by=None)
            assert answer.status_code == 200
            # On a slow machine the broker may not have answered in time.
            found: dict[str, str] = answer.json()["checks"].get("topology", {})
            return found

        ill = eventually(look)
        with rabbitmq.connection() as connection:
            declare(connection)
        well = eventually(look)

    assert ill["status"] == "degraded"
    assert "the queue commands, " in ill["detail"]
    assert well == {"status": "ok", "detail": "as declared"}


# --- queues that refuse ----------------------------------------------------------------------------------------


def test_a_full_queue_does_not_keep_events_from_the_others(database: Database, subscriber: Subscriber) -> None:
    given_events(database.engine, lines=150, length=2)

    def told() -> list[list[int]]:
        return [list(dict.fromkeys(numbers)) for numbers in subscriber.sequences().values()]

    with going(Relay(database.engine, subscriber.settings)):
        eventually(lambda: told() == [[1, 2]] * 150)


def test_what_a_full_queue_refused_is_published_again_once_there_is_room(
    database: Database, subscriber: Subscriber
) -> None:
    given_events(database.engine, lines=5, length=1)
    relay = Relay(database.engine, subscriber.settings, owed=RefusedEvents(pauses_seconds=(0, 0)))
    relay.publish_batch()
    assert unannounced(database.engine) == 2
    first = [message.payload["subject"] for message in subscriber.broker.receive_all(THE_REFUSER)]

    while unannounced(database.engine):
        relay.publish_batch()

    rest = [message.payload["subject"] for message in subscriber.broker.receive_all(THE_REFUSER)]
    assert len({*first, *rest}) == 5


def test_a_queue_that_stays_full_is_given_up_after_a_few_times(database: Database, subscriber: Subscriber) -> None:
    given_events(database.engine, lines=5, length=1)
    relay = Relay(database.engine, subscriber.settings, owed=RefusedEvents(pauses_seconds=(0, 0)))

    while relay.publish_batch():
        pass

    assert unannounced(database.engine) == 0
    assert sorted(len(numbers) for numbers in subscriber.sequences().values()) == [1, 1, 1, 3, 3]


def test_only_so_many_refused_events_are_tried_again(database: Database, subscriber: Subscriber) -> None:
    given_events(database.engine, lines=10, length=1)
    relay = Relay(database.engine, subscriber.settings, owed=RefusedEvents(pauses_seconds=(600,), at_most=4))

    while relay.publish_batch():
        pass

    assert unannounced(database.engine) == 4


def test_the_notifiers_queue_is_never_full(declared: RabbitBroker) -> None:
    bus = EventBus(declared.settings, max_unread=50)

    for _ in range(4):
        assert bus.publish([BusMessage("incident.opened", "1")] * 40) == frozenset()

    assert declared.depth(NOTIFIER_QUEUE) == 80


def test_a_full_lane_does_not_keep_hints_from_the_others(declared: RabbitBroker) -> None:
    limit(declared, Lane.BULK, 1)
    hinter = HintPublisher(make_app(declared.settings))
    for lane in (Lane.BULK, Lane.COMMANDS, Lane.DELIVERIES):
        # Three messages each.
        hinter.publish(lane, (f"incident:1:{number}" for number in range(1500)))

    hinter.start()
    hinter.stop(timeout=30)

    assert declared.depth(Lane.BULK) < 3
    assert (declared.depth(Lane.COMMANDS), declared.depth(Lane.DELIVERIES)) == (3, 3)


def bind(broker: RabbitBroker, name: str, limits: dict[str, object]) -> None:
    """Let a service of this name ask for all events."""
    with broker.connection() as connection:
        queue = Queue(name, EVENTS_EXCHANGE, routing_key="#", queue_arguments=limits)
        queue(connection.default_channel).declare()


def limit(broker: RabbitBroker, queue: str, length: int) -> None:
    """Let an operator allow a queue fewer messages than we do."""
    policy = {"pattern": f"^{queue}$", "definition": {"max-length": length}, "apply-to": "queues"}
    broker.node.ask("PUT", f"/policies/{broker.host}/small", policy)
