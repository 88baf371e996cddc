# kombu is only partly typed, although it is marked as typed.
# mypy: disable-error-code="no-untyped-call"
"""`tocsin tap`: print events as they are published."""

from __future__ import annotations

import contextlib
import json
from typing import Annotated, Any, Final

import typer
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.messaging import Consumer

from models.base import new_id
from tasks.app import make_app
from tasks.broker.topology import EVENTS_EXCHANGE
from tasks.settings import BrokerSettings
from workers.cli.common import DataOption, JsonOption, print_line, use_stack_environment
from workers.cli.errors import CliError

_NEWEST: Final = {"x-max-length": 10_000, "x-overflow": "drop-head"}


def tap(
    *,
    binding: Annotated[list[str] | None, typer.Option(help="Routing keys to bind, like 'incident.#'.")] = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print events as they are published, until Ctrl-C. With --json, print one CloudEvent per line."""
    use_stack_environment(data)
    connection = make_app(BrokerSettings.from_environment()).connection_for_read()
    try:
        connection.ensure_connection(max_retries=1, interval_start=0)
        _listen(connection, f"tocsin.tap.{new_id()}", binding or ["#"], as_json=as_json)
    except connection.connection_errors as error:
        raise CliError(f"the broker is unreachable: {error}; check BROKER_URL") from None
    finally:
        connection.close()


def _listen(connection: Connection, name: str, keys: list[str], *, as_json: bool) -> None:
    def show(body: Any, message: Any) -> None:
        event = json.loads(body) if isinstance(body, str) else body
        print_line(json.dumps(event) if as_json else _line(event))
        message.ack()

    channel = connection.channel()
    # The queue is deleted when the connection ends, and bounded, so that a paused terminal does not fill the broker.
    queues = [
        Queue(name, EVENTS_EXCHANGE, key, durable=False, exclusive=True, auto_delete=True, queue_arguments=_NEWEST)(
            channel
        )
        for key in keys
    ]
    try:
        for queue in queues:
            queue.declare()
        with Consumer(channel, queues[:1], callbacks=[show], accept=["json"]):
            while True:
                with contextlib.suppress(TimeoutError):
                    connection.drain_events(timeout=1)
    finally:
        queues[0].delete()


def _line(event: dict[str, Any]) -> str:
    actor = (event.get("data") or {}).get("actor") or {}
    words = [event.get("time"), event.get("type"), event.get("subject"), f"#{int(event.get('sequence', 0))}"]
    return "  ".join(str(word) for word in [*words, actor.get("name") or ""]).rstrip()
