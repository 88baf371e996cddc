# kombu is marked as typed but only partly annotated.
# mypy: disable-error-code="no-untyped-call"
"""While RabbitMQ blocks publishers, no event is sent and no transaction waits; afterwards each is published once."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import text
from sqlalchemy.engine import Engine
from structlog.testing import capture_logs

from gateway.settings import GatewaySettings
from models.enums import Lane
from tasks.app import make_app
from tasks.broker.hint_publisher import HintPublisher
from tests.brokers import RabbitBroker
from tests.conftest import Database
from tests.faults.outage_proxy import REASON, OutageProxy
from tests.faults.relay_harness import (
    Subscriber,
    insert_events,
    publish_all,
    unpublished_count,
)
from tests.http.gateway_server import running_gateway
from tests.journeys.subprocesses import run_tocsin
from tests.waiting import eventually
from workers.relay.event_bus import EventBus, PublishResult
from workers.relay.relay import Relay
from workers.relay.sent_batch import BusMessage
from workers.stack.servers import EmbeddedServers

pytestmark = pytest.mark.xdist_group("faults")

OPENED = [BusMessage("incident.opened", json.dumps(number)) for number in range(50)]


def transactions(engine: Engine) -> int:
    """Return the number of sessions that are idle in a transaction."""
    with engine.connect() as connection:
        return int(
            connection.exec_driver_sql(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND state LIKE 'idle in transaction%%'"
            ).scalar_one()
        )


def is_free(bus: EventBus) -> bool:
    bus.check()
    return not bus.is_blocked


# --- a real alarm -----------------------------------------------------------------------------------------------


def test_during_an_alarm_nothing_is_sent_and_afterwards_every_event_is_published_once(
    database: Database, rabbitmq: RabbitBroker, subscriber: Subscriber
) -> None:
    first, second = (Relay(database.engine, subscriber.settings) for _ in range(2))
    with rabbitmq.node.memory_alarm():
        insert_events(database.engine, subjects=20, per_subject=5)
        for relay in (first, second, first, second):
            relay.publish_batch()
        assert unpublished_count(database.engine) == 100
        assert transactions(database.engine) == 0

    eventually(lambda: first.publish_batch() or unpublished_count(database.engine) == 0)
    publish_all(first)
    publish_all(second)

    assert unpublished_count(database.engine) == 0
    assert list(subscriber.sequences().values()) == [[1, 2, 3, 4, 5]] * 20


def test_an_alarm_is_logged_with_its_reason_and_its_end(rabbitmq: RabbitBroker, subscriber: Subscriber) -> None:
    bus = EventBus(rabbitmq.settings)
    with capture_logs() as logs:
        with rabbitmq.node.memory_alarm():
            assert bus.publish(OPENED) == PublishResult(unconfirmed=frozenset(range(len(OPENED))))
        eventually(lambda: is_free(bus))

    found = [(line["event"], line.get("reason")) for line in logs if line["event"].startswith("broker.")]
    assert found == [("broker.blocked", "low on memory"), ("broker.unblocked", None)]


@pytest.mark.slow
def test_the_doctor_and_the_gateway_show_an_alarm(
    database: Database, servers: EmbeddedServers, rabbitmq: RabbitBroker, subscriber: Subscriber
) -> None:
    known = {"DATABASE_URL": database.url, "BROKER_URL": rabbitmq.url, "REDIS_URL": servers.redis_url}

    def broker_check() -> dict[str, object]:
        checks = json.loads(run_tocsin("doctor", "--json", **known).stdout)["checks"]
        return next(check for check in checks if check["check"] == "broker")

    with running_gateway(GatewaySettings(_env_file=None, **known)) as gateway:  # type: ignore[call-arg, arg-type]

        def shown() -> tuple[bool, bool]:
            health = gateway.get("/readyz?verbose", by=None).json()["checks"]["broker"]["detail"]
            metrics = gateway.get("/metrics", by=None).text
            return "blocks publishers (low on memory)" in health, "tocsin_broker_blocked 1.0" in metrics

        hints = gateway.app.state.container.hint_publisher
        assert shown() == (False, False)
        with rabbitmq.node.memory_alarm():
            hints.publish(Lane.COMMANDS, ["org:1"])
            eventually(lambda: shown() == (True, True))
            during = broker_check()
        eventually(lambda: shown() == (False, False))

    assert during["good"] is False
    assert str(during["says"]).startswith("RabbitMQ blocks publishers (low on memory), so no hint")
    assert broker_check()["good"] is True


# --- an alarm that begins in the middle of a batch, made by a proxy -------------------------------------------------


def middle_subject(engine: Engine) -> bytes:
    """Return the subject of an event in the middle of the next batch, as it appears in the event's message."""
    with engine.connect() as connection:
        subjects = sorted(connection.execute(text("SELECT DISTINCT subject FROM events")).scalars())
    return f'"{subjects[len(subjects) // 2]}"'.encode()


def test_an_alarm_in_the_middle_of_a_batch_ends_its_transaction_and_no_event_is_sent_twice(
    database: Database, subscriber: Subscriber, proxy: OutageProxy
) -> None:
    insert_events(database.engine, subjects=50, per_subject=2)
    relay = Relay(database.engine, proxy.settings)
    proxy.block_on = middle_subject(database.engine)

    relay.publish_batch()
    assert proxy.is_blocking
    assert 0 < unpublished_count(database.engine) < 100
    assert transactions(database.engine) == 0
    assert relay.publish_batch() is False

    proxy.unblock()
    eventually(lambda: relay.publish_batch() or unpublished_count(database.engine) == 0)
    publish_all(relay)

    assert unpublished_count(database.engine) == 0
    assert list(subscriber.sequences().values()) == [[1, 2]] * 50
    assert proxy.connections == 1


def test_a_batch_that_no_buffer_can_hold_does_not_keep_the_sender_waiting(
    subscriber: Subscriber, proxy: OutageProxy
) -> None:
    bus = EventBus(proxy.settings)
    large = [BusMessage("incident.opened", json.dumps(f"{number} " + "x" * 400_000)) for number in range(300)]
    proxy.block_on = b'"5 x'
    # Meanwhile a sender without a limit fills all buffers and is caught in a write.
    proxy.silence_seconds = 0.5

    result = bus.publish(large)

    assert proxy.is_blocking
    assert len(result.unconfirmed) == 295


def test_messages_that_were_in_flight_when_a_blocked_connection_ended_are_sent_again(
    database: Database, subscriber: Subscriber, proxy: OutageProxy
) -> None:
    insert_events(database.engine, subjects=20, per_subject=1)
    relay = Relay(database.engine, proxy.settings)
    proxy.block_on = middle_subject(database.engine)
    relay.publish_batch()

    proxy.cut()
    proxy.unblock()
    proxy.restore()
    eventually(lambda: published_all(relay, database.engine))

    received = subscriber.sequences()
    assert len(received) == 20


def published_all(relay: Relay, engine: Engine) -> bool:
    try:
        publish_all(relay)
    except OSError:
        return False
    return unpublished_count(engine) == 0


def test_a_blocked_hint_publisher_keeps_its_connection_and_continues_after_the_alarm(
    rabbitmq: RabbitBroker, proxy: OutageProxy
) -> None:
    publisher = HintPublisher(make_app(proxy.settings))
    publisher.start()
    try:
        publisher.publish(Lane.COMMANDS, ["org:1"])
        eventually(lambda: rabbitmq.depth(Lane.COMMANDS) == 1)
        proxy.block()

        for number in range(5):
            publisher.publish(Lane.COMMANDS, [f"org:{number}"])
            eventually(lambda: publisher.blocked_reason == REASON)
        proxy.unblock()
        eventually(lambda: publisher.blocked_reason is None)
        before = rabbitmq.depth(Lane.COMMANDS)
        publisher.publish(Lane.COMMANDS, ["org:9"])

        eventually(lambda: rabbitmq.depth(Lane.COMMANDS) > before)
        # Not one for each hint. A request that timed out just before the alarm ended may cost one.
        assert proxy.connections <= 2
    finally:
        publisher.stop()
