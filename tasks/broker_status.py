"""Whether the broker answers, what kind it is, and how many consumers its queues have, within a time limit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from kombu.connection import Connection

from models.enums import Lane
from tasks.app import make_app
from tasks.broker.write_refusal import find_write_refusal
from tasks.inquiry import Inquiry
from tasks.settings import BrokerSettings

ANSWER_SECONDS: Final = 1.5
"""How long to wait for the broker's answer."""


class BrokerStatus(NamedTuple):
    """The broker's answer. ``kind`` is ``valkey``, ``redis`` or ``rabbitmq``; ``detail`` is a sentence.

    ``consumers`` maps each lane to the number of processes that consume its queue, or to ``None`` if the broker cannot
    tell: Valkey and Redis do not know them.
    """

    is_reachable: bool
    kind: str
    detail: str
    consumers: Mapping[Lane, int | None]


NO_CONSUMERS: Final[Mapping[Lane, int | None]] = dict.fromkeys(Lane)


def read_broker_status(settings: BrokerSettings, *, seconds: float = ANSWER_SECONDS) -> BrokerStatus:
    """Ask the broker, and return within ``seconds`` in any case. Call it outside of any transaction.

    It blocks: an event loop calls it in a thread. A broker that does not answer in time counts as unreachable, and its
    connection ends in the background.
    """
    kind = "redis" if settings.on_redis else "rabbitmq"
    try:
        return Inquiry(lambda: _ask(settings, seconds), name="broker status").wait(seconds)
    except Exception as error:
        reason = _first_line(error)
    detail = f"The broker cannot be reached: {reason}. Commands are accepted, and applied as the sweeper finds them."
    return BrokerStatus(False, kind, detail, NO_CONSUMERS)


def _ask(settings: BrokerSettings, seconds: float) -> BrokerStatus:
    app = make_app(settings)
    with app.connection_for_read() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=seconds)
        channel = connection.default_channel
        if settings.on_redis:
            version = channel.client.info("server")
            kind = "valkey" if "valkey_version" in version else "redis"
            number = version.get(f"{kind}_version", "")
            if refusal := find_write_refusal(connection):
                detail = f"{kind} {number} takes no message, because {refusal.reason}: {refusal.fix}."
                return BrokerStatus(False, kind, detail, NO_CONSUMERS)
            return BrokerStatus(True, kind, f"{kind} {number} answers.", NO_CONSUMERS)
        return BrokerStatus(True, "rabbitmq", f"rabbitmq {_version(connection)} answers.", _consumers(channel))


def _version(connection: Connection) -> str:
    properties = getattr(connection.connection, "server_properties", {})
    return str(properties.get("version", ""))


def _consumers(channel: Any) -> Mapping[Lane, int | None]:
    return {lane: channel.queue_declare(queue=lane.value, passive=True).consumer_count for lane in Lane}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
