"""Readiness checks, which tell whether this gateway can accept commands and, if it cannot, why."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from enum import StrEnum
from functools import partial
from typing import Final, NamedTuple

from gateway.container import Container
from models.database.migrate import known_revisions
from models.refusals import Unavailable
from tasks.broker.parked import ParkedMessages, find_parked_messages
from tasks.broker.pubsub import responds
from tasks.broker.topology import topology_errors
from tasks.broker.write_refusal import find_write_refusal

WAKE_UPS_SECONDS: Final = 1.0


class HealthStatus(StrEnum):
    """The status of a health check. ``FAILED`` means that commands cannot be accepted."""

    OK = "ok"
    DEGRADED = "degraded"
    FAILED = "failed"


class HealthCheck(NamedTuple):
    """The result of one health check. Commands can be accepted only while every required check is healthy."""

    name: str
    is_healthy: bool
    is_required: bool
    detail: str

    @property
    def status(self) -> HealthStatus:
        """The check's status: a check that is not required can be degraded, but cannot fail."""
        if self.is_healthy:
            return HealthStatus.OK
        return HealthStatus.FAILED if self.is_required else HealthStatus.DEGRADED


async def run_checks(container: Container, *, with_broker: bool) -> list[HealthCheck]:
    """Check the database and its schema and, if ``with_broker`` is true, the broker and its queues."""
    pending: list[Awaitable[list[HealthCheck]]] = [_database(container)]
    if with_broker:
        pending.append(_broker(container))
    return [check for found in await asyncio.gather(*pending) for check in found]


async def reaches_wake_ups(container: Container) -> bool | None:
    """Return whether the server for wake-ups responds, or ``None`` if there is none."""
    url = container.settings.wake_url
    return None if url is None else await responds(url, seconds=WAKE_UPS_SECONDS)


async def read_parked(container: Container) -> ParkedMessages | None:
    """Return the number of parked messages, or ``None`` while the broker is unavailable."""
    # The other metrics are needed most while something is unavailable.
    try:
        return await container.broker_inspector.look("parked", find_parked_messages)
    except Exception:
        return None


async def _database(container: Container) -> list[HealthCheck]:
    try:
        revision = await container.queries.schema_revision()
    except Unavailable:
        return [HealthCheck("database", is_healthy=False, is_required=True, detail="PostgreSQL does not respond")]
    except Exception:
        # The server responds, but the database has no table of schema revisions.
        revision = None
    known = known_revisions()
    # A newer release may already have migrated the database. Migrations keep the previous release working.
    is_current = revision == known[0] or (revision is not None and revision not in known)
    detail = f"at {revision}" if is_current else f"at {revision or 'nothing'}, needs {known[0]}: run `tocsin migrate`"
    return [
        HealthCheck("database", is_healthy=True, is_required=True, detail="responds"),
        HealthCheck("schema", is_healthy=is_current, is_required=True, detail=detail),
    ]


async def _broker(container: Container) -> list[HealthCheck]:
    inspect = partial(topology_errors, services=container.settings.parsed_service_queues)
    try:
        errors = await container.broker_inspector.look("topology", inspect)
        detail = await _writability(container)
    except Exception:
        detail = "unavailable: commands are still accepted, but applied only once it is back or the sweeper finds them"
        return [HealthCheck("broker", is_healthy=False, is_required=False, detail=detail)]
    return [
        HealthCheck("broker", is_healthy=detail == TAKES_MESSAGES, is_required=False, detail=detail),
        # A hint without a queue is lost. Its commands wait until the sweeper publishes a hint and the queue exists.
        HealthCheck("topology", is_healthy=not errors, is_required=False, detail="; ".join(errors) or "as declared"),
    ]


async def _writability(container: Container) -> str:
    """Return why the broker takes no message, and what to do, or :data:`TAKES_MESSAGES`."""
    if reason := container.hint_publisher.blocked_reason:
        return f"blocks publishers ({reason}): commands are accepted, but applied only later"
    # On RabbitMQ, a blocked connection says so by itself.
    if not container.settings.on_redis:
        return TAKES_MESSAGES
    refusal = await container.broker_inspector.look("writes", find_write_refusal)
    if refusal is None:
        return TAKES_MESSAGES
    return f"takes no message, because {refusal.reason}: commands are accepted, but applied only later; {refusal.fix}"


TAKES_MESSAGES: Final = "responds"
