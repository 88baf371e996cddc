# kombu is marked as typed but only partly annotated.
# mypy: disable-error-code="no-untyped-call"
"""Whoever may write to the broker can neither stop the event bus, nor end or control what reads from it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from kombu.entity import Queue
from structlog.testing import capture_logs

from gateway.ledger.outcomes import OutcomeWaiter
from models.base import new_id
from models.database.async_engine import make_async_engine
from models.enums import Lane
from tasks.broker.parked import find_parked_messages
from tasks.broker.taps import LEASE_SECONDS, renew_lease
from tasks.broker.topology import EVENTS_EXCHANGE, LANES_EXCHANGE, NOTIFIER_QUEUE, declare, topology_errors
from tasks.broker.transport import PARKED
from tests.brokers import Broker, RabbitBroker, ValkeyBroker
from tests.conftest import Database
from tests.journeys.subprocesses import CLEAN_ENVIRONMENT
from tests.waiting import eventually
from workers.cli.tap import describe
from workers.relay.event_bus import EventBus
from workers.relay.sent_batch import BusMessage

OPENED = BusMessage("incident.opened", "1")
EVENTS_TABLE = f"_kombu.binding.{EVENTS_EXCHANGE.name}"
LANES_TABLE = f"_kombu.binding.{LANES_EXCHANGE.name}"
FIRST, SECOND = new_id(), new_id()
SEP = "\x06\x16"

DAMAGED = {
    "one part": b"tocsin.events.notifier",
    "four parts": SEP.join(["incident.#", "x", "y", "z"]).encode(),
    "not UTF-8": b"\xff\xfe" + SEP.encode() * 2,
    "no queue": SEP.join(["a", "^a$", ""]).encode(),
    "not a pattern": SEP.join(["a", "(", "somewhere"]).encode(),
    "another pattern than its key's": SEP.join(["incident.#", "(a+)+$", "somewhere"]).encode(),
    "empty": b"",
}


@pytest.fixture
def bus(broker: Broker) -> Iterator[EventBus]:
    """An event bus that is connected, and has declared everything."""
    bus = EventBus(broker.settings)
    bus.check()
    yield bus
    bus.close()


@pytest.fixture
def valkey_bus(valkey: ValkeyBroker) -> Iterator[EventBus]:
    bus = EventBus(valkey.settings)
    bus.check()
    yield bus
    bus.close()


class RunningTap:
    """A running `tocsin tap` whose output goes to a file."""

    def __init__(self, broker: Broker, output: Path) -> None:
        self._output = output
        with output.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "workers.cli", "tap"],
                env=CLEAN_ENVIRONMENT | {"BROKER_URL": broker.url, "DATABASE_URL": "postgresql:///nowhere"},
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self) -> str:
        return self._output.read_text()


@pytest.fixture
def tap(broker: Broker, bus: EventBus, tmp_path: Path) -> Iterator[RunningTap]:
    """A tap that is bound, and has printed the event `first`."""
    tap = RunningTap(broker, tmp_path / "output")

    def is_bound() -> bool:
        publish_event(broker, '{"type": "first"}')
        return "first" in tap.output

    try:
        eventually(is_bound)
        yield tap
    finally:
        tap.process.kill()
        tap.process.wait()


def publish_event(broker: Broker, *bodies: str) -> None:
    with broker.connection() as connection:
        declare(connection)
        producer = connection.Producer()
        for body in bodies:
            producer.publish(
                body,
                exchange=EVENTS_EXCHANGE.name,
                routing_key="incident.opened",
                content_type="application/json",
                content_encoding="utf-8",
            )


# --- bindings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_binding_is_dropped_and_named_and_events_are_published(
    valkey: ValkeyBroker, valkey_bus: EventBus, entry: bytes
) -> None:
    valkey.client.sadd(EVENTS_TABLE, entry)

    with capture_logs() as logs:
        valkey_bus.publish([OPENED])

    assert valkey.depth(NOTIFIER_QUEUE) == 1
    assert entry not in valkey.client.smembers(EVENTS_TABLE)
    [dropped] = [line for line in logs if line["event"] == "broker.bindings_dropped"]
    assert (dropped["exchange"], len(dropped["bindings"])) == (EVENTS_EXCHANGE.name, 1)


@pytest.mark.parametrize(
    "key",
    [
        EVENTS_TABLE,
        LANES_TABLE,
        f"_kombu.binding_permanent.{EVENTS_EXCHANGE.name}",
        NOTIFIER_QUEUE,
        Lane.COMMANDS.value,
    ],
)
def test_our_own_key_that_another_program_has_overwritten_is_replaced(valkey: ValkeyBroker, key: str) -> None:
    valkey.client.set(key, "something else")
    bus = EventBus(valkey.settings)

    bus.publish([OPENED])

    assert valkey.depth(NOTIFIER_QUEUE) == 1
    bus.close()


def test_a_binding_to_a_key_that_is_not_a_list_is_dropped_on_the_next_connection(
    valkey: ValkeyBroker, valkey_bus: EventBus
) -> None:
    valkey.client.set("somewhere", "not a list")
    valkey.client.sadd(EVENTS_TABLE, SEP.join(["incident.#", r"^incident\..*?$", "somewhere"]))

    with pytest.raises(Exception, match="publish batch failed"):
        valkey_bus.publish([OPENED])
    valkey_bus.publish([OPENED])

    assert valkey.depth(NOTIFIER_QUEUE) >= 1
    assert valkey.client.get("somewhere") == b"not a list"


def test_the_topology_check_names_damaged_bindings_and_changes_nothing(
    valkey: ValkeyBroker, valkey_bus: EventBus
) -> None:
    valkey.client.sadd(EVENTS_TABLE, b"da\x1bmaged")

    with valkey.connection() as connection:
        [error] = topology_errors(connection)

    assert error == (
        r"tocsin.events has damaged bindings (1, such as 'da\x1bmaged'), which `tocsin relay` removes: "
        "find out who writes to Valkey"
    )
    assert b"da\x1bmaged" in valkey.client.smembers(EVENTS_TABLE)


def test_an_exchange_deleted_on_rabbitmq_is_declared_again_for_the_next_events(rabbitmq: RabbitBroker) -> None:
    bus = EventBus(rabbitmq.settings)
    bus.publish([OPENED])
    with rabbitmq.connection() as connection:
        connection.default_channel.exchange_delete(EVENTS_EXCHANGE.name)

    # The relay tries a batch that has failed again.
    with contextlib.suppress(Exception):
        bus.publish([OPENED])
    bus.publish([OPENED])

    assert rabbitmq.depth(NOTIFIER_QUEUE) >= 2
    bus.close()


# --- taps --------------------------------------------------------------------------------------------------------


def bind_a_tap(valkey: ValkeyBroker, name: str) -> None:
    """Leave the queue of a tap behind, as a killed tap does, with a lease."""
    with valkey.connection() as connection:
        channel = connection.default_channel
        renew_lease(channel, name)
        Queue(name, EVENTS_EXCHANGE, "#")(channel).declare()


def test_the_queue_of_a_dead_tap_is_deleted(valkey: ValkeyBroker, valkey_bus: EventBus) -> None:
    bind_a_tap(valkey, "tocsin.tap.1")
    valkey_bus.publish([OPENED])
    lease_seconds, before = valkey.client.ttl("tocsin.tap.1:lease"), valkey.depth("tocsin.tap.1")

    # As after LEASE_SECONDS.
    valkey.client.delete("tocsin.tap.1:lease")
    with valkey.connection() as connection:
        [error] = topology_errors(connection)
    valkey_bus.publish([OPENED])
    valkey_bus.publish([OPENED])

    assert 0 < lease_seconds <= LEASE_SECONDS
    assert before == 1
    assert error == "nobody reads the queues tocsin.tap.1 any more, which `tocsin relay` deletes"
    assert not valkey.client.exists("tocsin.tap.1")
    assert not any(b"tocsin.tap" in member for member in valkey.client.smembers(EVENTS_TABLE))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_tap_that_is_told_to_end_leaves_nothing_behind(
    tap: RunningTap, broker: Broker, number: signal.Signals
) -> None:
    tap.process.send_signal(number)

    assert tap.process.wait(60) == 130
    assert "Traceback" not in tap.output
    assert tap_queues(broker) == []


def tap_queues(broker: Broker) -> list[str]:
    """Return the names of all queues of taps, and on Valkey their leases and bindings."""
    if isinstance(broker, RabbitBroker):
        names = [str(queue["name"]) for queue in broker.queues()]
    else:
        assert isinstance(broker, ValkeyBroker)
        names = [str(name) for name in [*broker.client.keys("*"), *broker.client.smembers(EVENTS_TABLE)]]
    return [name for name in names if "tocsin.tap." in name]


HOSTILE = {
    "an escape code": json.dumps({"type": "\x1b]0;owned\x07", "subject": "a\nb", "sequence": "1"}),
    "other types": json.dumps({"type": [], "data": 7, "sequence": {}, "subject": None}),
    "a long number": '{"sequence": ' + "9" * 5000 + "}",
    "deep": "[" * 5000,
    "not an object": '["\u202e"]',
    "not JSON": "\x1b[31mred",
    "a lone surrogate": '{"type": "\\ud800"}',
    "delete": '{"type": "\x7f"}',
    "not a number": '{"type": "x", "sequence": NaN}',
}


@pytest.mark.parks
def test_a_tap_shows_anything_escaped_and_survives_it(tap: RunningTap, broker: Broker) -> None:
    publish_event(
        broker, *HOSTILE.values(), json.dumps({"type": "last", "subject": "incident:1:1", "sequence": "0007"})
    )

    eventually(lambda: "last" in tap.output)

    assert tap.process.poll() is None
    assert "–  last  incident:1:1  #7\n" in tap.output
    assert r"\x1b]0;owned\x07  a\nb" in tap.output
    assert r'not an event: ["\u202e"]' in tap.output
    assert "transport.parked" in tap.output
    assert all(character.isprintable() or character == "\n" for character in tap.output)


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_a_tap_prints_json_without_characters_that_control_a_terminal(body: str) -> None:
    line = describe(body, as_json=True)

    assert line is None or (line.isprintable() and line.isascii())


@pytest.mark.slow
@pytest.mark.parametrize("broker", ["valkey"], indirect=True)
def test_a_tap_that_was_paused_for_too_long_says_so_and_receives_events_again(
    tap: RunningTap, broker: ValkeyBroker, bus: EventBus
) -> None:
    for lease in broker.client.keys("tocsin.tap.*:lease"):
        broker.client.delete(lease)
    bus.publish([OPENED])
    assert tap_queues(broker) == []

    eventually(lambda: tap_queues(broker), within_seconds=60)
    publish_event(broker, '{"type": "second"}')

    eventually(lambda: "second" in tap.output)
    assert "this tap was paused for too long, and has missed events\n" in tap.output


# --- rejected messages -------------------------------------------------------------------------------------------


@pytest.mark.parks
@pytest.mark.parametrize(
    "record", [b"\xff", b"[]", b'{"time": "\\u001b[31m", "queue": "q", "reason": "r"}', b"[" * 5000]
)
def test_a_forged_record_of_a_rejected_message_is_counted_and_shown_escaped(
    valkey: ValkeyBroker, record: bytes
) -> None:
    valkey.client.lpush(PARKED, record)

    with valkey.connection() as connection:
        found = find_parked_messages(connection)

    assert found.messages == 1
    assert found.newest is not None
    assert found.newest.isprintable()


# --- wake-ups ----------------------------------------------------------------------------------------------------


def test_an_oversized_wake_up_is_only_a_wake_up(database: Database) -> None:
    async def read_after(payload: str) -> list[set[UUID]]:
        engine = make_async_engine(database.url, application="test", pool_size=1, pool_timeout=1)
        waiter = OutcomeWaiter(engine, wake_url=None, timeout_seconds=1)
        read: list[set[UUID]] = []
        waiter.refresh = lambda ids: read.append(set(ids))  # type: ignore[method-assign]
        with waiter.expect([FIRST, SECOND]):
            waiter._on_wakeup("", payload)
        return read

    assert asyncio.run(read_after(f"x {SECOND}")) == [{SECOND}]
    assert asyncio.run(read_after(f"{SECOND} " * 2_000)) == [{FIRST, SECOND}]
