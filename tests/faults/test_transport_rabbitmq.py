# kombu is marked as typed but only partly annotated.
# mypy: disable-error-code="no-untyped-call"
"""Malformed messages on RabbitMQ are dead-lettered, and the worker survives them and outages."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from struct import pack
from typing import Any

import pytest
from amqp import Message

from tasks.broker.topology import DEAD_QUEUE, NOTIFIER_QUEUE, declare
from tests.brokers import RabbitBroker
from tests.faults.conftest import HintWorker
from tests.faults.envelopes import FORGED, FORGED_CALL, MALFORMED, QUEUE, an_envelope, raw
from tests.waiting import eventually
from workers.notify.event_bus_listener import EventBusListener
from workers.relay.event_bus import EventBus
from workers.relay.sent_batch import BusMessage

pytestmark = pytest.mark.xdist_group("faults")


class WithRawProperties(Message):  # type: ignore[misc]
    """A message with raw property bytes: the flags of the properties present, then their values."""

    def __init__(self, flags: int, properties: bytes) -> None:
        super().__init__(b"{}")
        self._raw = pack(">H", flags) + properties

    def _serialize_properties(self) -> bytes:
        return self._raw


def with_header(value: bytes) -> WithRawProperties:
    """Return a message with one header, whose type and value are already encoded."""
    return WithRawProperties(0x2000, table(value))


def table(value: bytes) -> bytes:
    return pack(">I", 2 + len(value)) + b"\x01x" + value


def nested(depth: int) -> bytes:
    value = b"V"
    for _ in range(depth):
        value = b"F" + table(value)
    return value


FAR_FUTURE = pack(">Q", 2**60)

UNREADABLE = {
    "a time in the year 10^10": WithRawProperties(0x0040, FAR_FUTURE),
    "a header with such a time": with_header(b"T" + FAR_FUTURE),
    "a content type that is not UTF-8": WithRawProperties(0x8000, b"\x02\xff\xfe"),
    "an id that is not UTF-8": WithRawProperties(0x0400, b"\x02\xff\xfe"),
    "a header of an ambiguous type": with_header(b"s\x00\x01"),
    "a decimal of 10^255": with_header(b"D\xff\x00\x00\x00\x01"),
    "tables in tables": with_header(nested(3000)),
}
"""Messages whose properties RabbitMQ forwards but py-amqp cannot decode, or decodes differently."""


def as_amqp(envelope: bytes) -> Message | None:
    """Convert an envelope to a RabbitMQ message; return ``None`` if only parts written by RabbitMQ are malformed."""
    try:
        parts = json.loads(envelope)
    except (ValueError, RecursionError):
        return Message(envelope[:100_000])
    if not isinstance(parts, dict):
        return Message(envelope)
    valid = an_envelope()
    body, headers = parts.get("body"), parts.get("headers")
    written = {name.replace("-", "_"): parts.get(name) for name in ("content-type", "content-encoding")}
    if (parts | {"properties": 0}) == (valid | {"properties": 0}) or not isinstance(headers, dict | None):
        return None
    return Message(
        as_bytes(body),
        application_headers=headers or {},
        **{name: value for name, value in written.items() if isinstance(value, str)},
    )


def as_bytes(body: Any) -> bytes:
    try:
        return base64.b64decode(body, validate=True)
    except (TypeError, ValueError):
        return json.dumps(body).encode()


MALFORMED_MESSAGES = [message for envelope in MALFORMED.values() if (message := as_amqp(envelope)) is not None]


@pytest.fixture
def broker(rabbitmq: RabbitBroker) -> RabbitBroker:
    """The worker's broker, with its queues declared."""
    with rabbitmq.connection() as connection:
        declare(connection)
    return rabbitmq


def publish(broker: RabbitBroker, *messages: Message, queue: str = QUEUE) -> None:
    with broker.connection() as connection:
        for message in messages:
            connection.default_channel.basic_publish(message, exchange="", routing_key=queue)


def a_hint(subject: str) -> Message:
    message = as_amqp(raw(an_envelope(subject)))
    assert message is not None
    return message


def test_most_malformed_envelopes_can_be_sent_over_rabbitmq() -> None:
    assert len(MALFORMED_MESSAGES) > 60


@pytest.mark.parks
def test_no_malformed_message_stops_a_worker_or_runs_a_forged_task(broker: RabbitBroker, worker: HintWorker) -> None:
    child = worker.child
    publish(broker, *MALFORMED_MESSAGES, *UNREADABLE.values(), a_hint("org:1"))

    worker.wait_handled("org:1")

    assert worker.handled == ["org:1"]
    assert worker.child == child
    assert "Traceback" not in worker.log
    eventually(lambda: broker.depth(DEAD_QUEUE) == len(MALFORMED_MESSAGES) + len(UNREADABLE))
    assert broker.depth(QUEUE) == 0


@pytest.mark.parks
def test_a_rejected_message_names_its_original_queue_and_is_logged(broker: RabbitBroker, worker: HintWorker) -> None:
    publish(broker, Message(b"hello"))

    eventually(lambda: broker.depth(DEAD_QUEUE) == 1)

    [dead_letter] = broker.node.management_request(
        "POST",
        f"/queues/{broker.host}/{DEAD_QUEUE}/get",
        {"count": 1, "ackmode": "ack_requeue_false", "encoding": "auto"},
    )
    assert dead_letter["payload"] == "hello"
    assert dead_letter["properties"]["headers"]["x-first-death-queue"] == QUEUE
    assert dead_letter["properties"]["headers"]["x-first-death-reason"] == "rejected"
    assert "transport.parked" in worker.log


def test_a_task_call_in_the_callbacks_header_is_not_executed(broker: RabbitBroker, worker: HintWorker) -> None:
    forged = a_hint("org:1")
    forged.properties["application_headers"]["callbacks"] = [FORGED_CALL]
    publish(broker, forged, a_hint("org:2"))

    worker.wait_handled("org:2")

    assert FORGED not in worker.handled
    assert broker.depth(DEAD_QUEUE) == 0


@pytest.mark.parks
def test_a_message_that_exceeds_the_delivery_limit_is_dead_lettered(broker: RabbitBroker) -> None:
    publish(broker, a_hint("org:1"))

    deliveries = 0
    while deliver_and_drop(broker):
        deliveries += 1

    assert deliveries == 21
    eventually(lambda: broker.depth(DEAD_QUEUE) == 1)


def deliver_and_drop(broker: RabbitBroker) -> bool:
    """Receive a message and disconnect without acknowledging it; return whether a message was available."""
    with broker.connection() as connection:
        return connection.default_channel.basic_get(QUEUE) is not None


def test_a_worker_declares_deleted_queues_again_and_continues(broker: RabbitBroker, worker: HintWorker) -> None:
    publish(broker, a_hint("org:1"))
    worker.wait_handled("org:1")

    broker.delete_queues()
    eventually(lambda: [queue for queue in broker.queues() if queue["name"] == QUEUE])
    publish(broker, a_hint("org:2"))

    worker.wait_handled("org:2")


def test_a_worker_survives_a_rabbitmq_outage_while_it_handles_a_message(
    broker: RabbitBroker, worker: HintWorker
) -> None:
    publish(broker, a_hint("wait:go"))
    worker.wait_handled("wait:go")
    broker.stop()

    (worker.folder / "go").touch()
    broker.start()
    publish(broker, a_hint("org:1"))

    worker.wait_handled("org:1")


@pytest.mark.parks
def test_a_listener_continues_after_a_malformed_event(broker: RabbitBroker) -> None:
    with running_listener(broker) as received:
        publish(broker, Message(b"hello"), *UNREADABLE.values(), queue=NOTIFIER_QUEUE)
        eventually(lambda: broker.depth(DEAD_QUEUE) == 1 + len(UNREADABLE))

        EventBus(broker.settings).publish([BusMessage("incident.opened", "{}")])

        assert received.wait(30)


@contextmanager
def running_listener(broker: RabbitBroker) -> Iterator[threading.Event]:
    received = threading.Event()
    listener = EventBusListener(broker.settings, received.set)
    listener.start()
    try:
        yield received
    finally:
        listener.stop()
