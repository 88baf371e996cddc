# kombu says that it is typed, and is so in part.
# mypy: disable-error-code="no-untyped-call"
"""On RabbitMQ too: what a stranger puts on a queue becomes a dead letter, and the worker goes on."""

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
from workers.event_bus import BusMessage, EventBus, EventBusListener

pytestmark = pytest.mark.xdist_group("rabbitmq")


class WithRawProperties(Message):  # type: ignore[misc]
    """A message whose properties are these very bytes: the flags that say which are there, then those."""

    def __init__(self, flags: int, properties: bytes) -> None:
        super().__init__(b"{}")
        self._raw = pack(">H", flags) + properties

    def _serialize_properties(self) -> bytes:
        return self._raw


def with_header(value: bytes) -> WithRawProperties:
    """A message with one header, of this type and value."""
    return WithRawProperties(0x2000, table(value))


def table(value: bytes) -> bytes:
    return pack(">I", 2 + len(value)) + b"\x01x" + value


def nested(depth: int) -> bytes:
    value = b"V"
    for _ in range(depth):
        value = b"F" + table(value)
    return value


FAR = pack(">Q", 2**60)

UNREADABLE = {
    "a time in the year 10^10": WithRawProperties(0x0040, FAR),
    "a header with such a time": with_header(b"T" + FAR),
    "a content type that is not UTF-8": WithRawProperties(0x8000, b"\x02\xff\xfe"),
    "an id that is not UTF-8": WithRawProperties(0x0400, b"\x02\xff\xfe"),
    "a header that others read as a number": with_header(b"s\x00\x01"),
    "a decimal of 10^255": with_header(b"D\xff\x00\x00\x00\x01"),
    "tables in tables": with_header(nested(3000)),
}
"""Properties that RabbitMQ passes on and py-amqp cannot read, or reads as something else."""


def as_amqp(envelope: bytes) -> Message | None:
    """A malformed envelope as a message on RabbitMQ; none if only what RabbitMQ writes itself is wrong with it."""
    try:
        parts = json.loads(envelope)
    except (ValueError, RecursionError):
        return Message(envelope[:100_000])
    if not isinstance(parts, dict):
        return Message(envelope)
    good = an_envelope()
    body, headers = parts.get("body"), parts.get("headers")
    written = {name.replace("-", "_"): parts.get(name) for name in ("content-type", "content-encoding")}
    if (parts | {"properties": 0}) == (good | {"properties": 0}) or not isinstance(headers, dict | None):
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


WRONG = [message for envelope in MALFORMED.values() if (message := as_amqp(envelope)) is not None]


@pytest.fixture
def broker(rabbitmq: RabbitBroker) -> RabbitBroker:
    """What the worker works on, with the queues on it."""
    with rabbitmq.connection() as connection:
        declare(connection)
    return rabbitmq


def put(broker: RabbitBroker, *messages: Message, queue: str = QUEUE) -> None:
    with broker.connection() as connection:
        for message in messages:
            connection.default_channel.basic_publish(message, exchange="", routing_key=queue)


def a_hint(subject: str) -> Message:
    message = as_amqp(raw(an_envelope(subject)))
    assert message is not None
    return message


def test_most_of_what_can_be_malformed_can_be_so_on_rabbitmq() -> None:
    assert len(WRONG) > 60


def test_no_malformed_message_stops_a_worker_and_nothing_forged_runs(broker: RabbitBroker, worker: HintWorker) -> None:
    child = worker.child
    put(broker, *WRONG, *UNREADABLE.values(), a_hint("org:1"))

    worker.wait_handled("org:1")

    assert worker.handled == ["org:1"]
    assert worker.child == child
    assert "Traceback" not in worker.log
    eventually(lambda: broker.depth(DEAD_QUEUE) == len(WRONG) + len(UNREADABLE))
    assert broker.depth(QUEUE) == 0


def test_a_dead_letter_says_where_it_lay_and_the_log_says_why(broker: RabbitBroker, worker: HintWorker) -> None:
    put(broker, Message(b"hello"))

    eventually(lambda: broker.depth(DEAD_QUEUE) == 1)

    [letter] = broker.node.ask(
        "POST",
        f"/queues/{broker.host}/{DEAD_QUEUE}/get",
        {"count": 1, "ackmode": "ack_requeue_false", "encoding": "auto"},
    )
    assert letter["payload"] == "hello"
    assert letter["properties"]["headers"]["x-first-death-queue"] == QUEUE
    assert letter["properties"]["headers"]["x-first-death-reason"] == "rejected"
    assert "transport.parked" in worker.log


def test_a_header_named_callbacks_runs_nothing(broker: RabbitBroker, worker: HintWorker) -> None:
    forged = a_hint("org:1")
    forged.properties["application_headers"]["callbacks"] = [FORGED_CALL]
    put(broker, forged, a_hint("org:2"))

    worker.wait_handled("org:2")

    assert FORGED not in worker.handled
    assert broker.depth(DEAD_QUEUE) == 0


def test_what_nobody_manages_to_handle_is_a_dead_letter_in_the_end(broker: RabbitBroker) -> None:
    put(broker, a_hint("org:1"))

    deliveries = 0
    while taken_and_dropped(broker):
        deliveries += 1

    assert deliveries == 21
    eventually(lambda: broker.depth(DEAD_QUEUE) == 1)


def taken_and_dropped(broker: RabbitBroker) -> bool:
    """Whether there was a message for somebody who then hung up."""
    with broker.connection() as connection:
        return connection.default_channel.basic_get(QUEUE) is not None


def test_a_worker_whose_queues_were_deleted_declares_them_and_goes_on(broker: RabbitBroker, worker: HintWorker) -> None:
    put(broker, a_hint("org:1"))
    worker.wait_handled("org:1")

    broker.delete_queues()
    eventually(lambda: [queue for queue in broker.queues() if queue["name"] == QUEUE])
    put(broker, a_hint("org:2"))

    worker.wait_handled("org:2")


def test_a_worker_outlives_rabbitmq_going_away_with_a_message_in_hand(broker: RabbitBroker, worker: HintWorker) -> None:
    put(broker, a_hint("wait:go"))
    worker.wait_handled("wait:go")
    broker.stop()

    (worker.folder / "go").touch()
    broker.start()
    put(broker, a_hint("org:1"))

    worker.wait_handled("org:1")


def test_a_listener_hears_on_after_a_malformed_event(broker: RabbitBroker) -> None:
    with listening(broker) as woken:
        put(broker, Message(b"hello"), *UNREADABLE.values(), queue=NOTIFIER_QUEUE)
        eventually(lambda: broker.depth(DEAD_QUEUE) == 1 + len(UNREADABLE))

        EventBus(broker.settings).publish([BusMessage("incident.opened", "{}")])

        assert woken.wait(30)


@contextmanager
def listening(broker: RabbitBroker) -> Iterator[threading.Event]:
    woken = threading.Event()
    listener = EventBusListener(broker.settings, woken)
    listener.start()
    try:
        yield woken
    finally:
        listener.stop()
