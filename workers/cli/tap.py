# kombu is only partly typed, although it is marked as typed.
# mypy: disable-error-code="no-untyped-call"
"""`tocsin tap`: print events as they are published.

Whoever may write to the broker decides what arrives here. Whatever it is, it is shown, and can neither end the tap nor
control the terminal.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from types import FrameType
from typing import Annotated, Any, Final

import structlog
import typer
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.messaging import Consumer

from models.base import new_id
from tasks.app import make_app
from tasks.broker.taps import QUEUE_PREFIX, RENEW_SECONDS, end_lease, renew_lease
from tasks.broker.topology import EVENTS_EXCHANGE, is_rabbitmq
from tasks.settings import BrokerSettings
from workers.cli.common import DataOption, JsonOption, print_line, use_stack_environment
from workers.cli.errors import CliError
from workers.cli.operations import clean

_NEWEST: Final = {"x-max-length": 10_000, "x-overflow": "drop-head"}

SHOWN_CHARACTERS: Final = 200
"""How many characters of a field, or of a message that is not an event, are shown."""


def tap(
    *,
    binding: Annotated[list[str] | None, typer.Option(help="Routing keys to bind, like 'incident.#'.")] = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print events as they are published, until Ctrl-C. With --json, print one CloudEvent per line."""
    use_stack_environment(data)
    # With --json, the standard output is read by programs.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    connection = make_app(BrokerSettings.from_environment()).connection_for_read()
    try:
        connection.ensure_connection(max_retries=1, interval_start=0)
        _Tap(connection, binding or ["#"], as_json=as_json).run()
    except BrokenPipeError:
        # The reader of a pipe has ended. Python would complain about the unwritten rest at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except connection.connection_errors as error:
        raise CliError(f"the broker is unreachable: {error}; check BROKER_URL") from None
    finally:
        connection.close()


class _Tap:
    """A queue of its own, bound to the events exchange, and the loop that prints what arrives on it."""

    def __init__(self, connection: Connection, keys: list[str], *, as_json: bool) -> None:
        self._connection = connection
        self._channel: Any = connection.channel()
        self._name = f"{QUEUE_PREFIX}{new_id()}"
        self._as_json = as_json
        self._has_lease = not is_rabbitmq(connection)
        # On RabbitMQ, the queue is deleted when the connection ends, and bounded, so that a paused terminal does not
        # fill the broker. On Valkey, the relay does both.
        self._queues = [
            Queue(
                self._name, EVENTS_EXCHANGE, key, durable=False, exclusive=True, auto_delete=True,
                queue_arguments=_NEWEST,
            )(self._channel)
            for key in keys
        ]  # fmt: skip

    def run(self) -> None:
        """Print events until a signal arrives."""
        if self._has_lease:
            renew_lease(self._channel, self._name)
        try:
            for queue in self._queues:
                queue.declare()
            with Consumer(self._channel, self._queues[:1], on_message=self._show, accept=None):
                self._consume()
        finally:
            self._queues[0].delete()
            if self._has_lease:
                end_lease(self._channel, self._name)

    def _consume(self) -> None:
        renewed_at = time.monotonic()
        while True:
            with contextlib.suppress(TimeoutError):
                self._connection.drain_events(timeout=1)
            if self._has_lease and time.monotonic() - renewed_at > RENEW_SECONDS:
                self._renew()
                renewed_at = time.monotonic()

    def _renew(self) -> None:
        was_valid = renew_lease(self._channel, self._name)
        for queue in self._queues:
            # Not through kombu's queue_bind, which remembers that it is bound and does nothing.
            bound = self._channel.typeof(EVENTS_EXCHANGE.name).prepare_bind(
                self._name, EVENTS_EXCHANGE.name, queue.routing_key, {}
            )
            self._channel._queue_bind(EVENTS_EXCHANGE.name, *bound)
        if not was_valid:
            sys.stderr.write("this tap was paused for too long, and has missed events\n")

    def _show(self, message: Any) -> None:
        line = describe(message.body, as_json=self._as_json)
        if line is None:
            sys.stderr.write(f"not an event: {_short(_text(message.body))}\n")
        else:
            print_line(line)
        message.ack()


def describe(body: bytes | str, *, as_json: bool = False) -> str | None:
    """Return an event of the bus as one printable line, or ``None`` if the body is not a JSON object."""
    try:
        event = json.loads(body)
        if not isinstance(event, dict):
            return None
        if as_json:
            # Everything else that could control a terminal is outside ASCII, or escaped by JSON itself.
            return json.dumps(event).replace("\x7f", "\\u007f")
    except (ValueError, RecursionError):
        return None
    return _line(event)


def _line(event: dict[str, Any]) -> str:
    data = event.get("data")
    actor = data.get("actor") if isinstance(data, dict) else None
    name = actor.get("name") if isinstance(actor, dict) else None
    sequence = str(event.get("sequence", "0")).lstrip("0") or "0"
    words = [event.get("time"), event.get("type"), event.get("subject"), f"#{sequence}", name or ""]
    return "  ".join(_short(word) for word in words).rstrip()


def _short(value: object) -> str:
    text = clean(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


def _text(body: bytes | str) -> str:
    return body if isinstance(body, str) else bytes(body[: 4 * SHOWN_CHARACTERS]).decode(errors="backslashreplace")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
