"""Whether this gateway can do its work, and what is wrong where it cannot."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from functools import cache
from typing import Final, NamedTuple

import models.migrations
from gateway.container import Container
from models.messaging.canary import CanaryStatus
from models.refusals import Unavailable
from tasks.broker.topology import topology_errors

BROKER_SECONDS: Final = 1.5
CANARIES_SECONDS: Final = 1.0


class Check(NamedTuple):
    """One part's state. Without one that ``is_needed`` nothing can be accepted."""

    name: str
    is_well: bool
    is_needed: bool
    detail: str


async def checks(services: Container, *, with_broker: bool) -> list[Check]:
    """Look at the database, its schema and, if wanted, the broker with its queues."""
    looks: list[Awaitable[list[Check]]] = [_database(services)]
    if with_broker:
        looks.append(_broker(services))
    return [check for found in await asyncio.gather(*looks) for check in found]


async def canaries(services: Container) -> list[CanaryStatus]:
    """What the canaries of every queue tell; nothing while the database cannot be asked."""
    try:
        async with asyncio.timeout(CANARIES_SECONDS):
            return await services.queries.canaries()
    except Exception:
        # The other figures are wanted most when something is away.
        return []


async def _database(services: Container) -> list[Check]:
    try:
        revision = await services.queries.schema_revision()
    except Unavailable:
        return [Check("database", is_well=False, is_needed=True, detail="PostgreSQL does not answer")]
    except Exception:
        # It answers, and has no table of revisions.
        revision = None
    known = await asyncio.to_thread(_revisions)
    # A newer release may have migrated already: its migrations leave this one working.
    is_well = revision == known[0] or (revision is not None and revision not in known)
    detail = f"at {revision}" if is_well else f"at {revision or 'nothing'}, needs {known[0]}: run `tocsin migrate`"
    return [
        Check("database", is_well=True, is_needed=True, detail="answers"),
        Check("schema", is_well=is_well, is_needed=True, detail=detail),
    ]


async def _broker(services: Container) -> list[Check]:
    try:
        async with asyncio.timeout(BROKER_SECONDS):
            misfit = await asyncio.to_thread(_look, services)
    except Exception:
        detail = "away: commands are still accepted, and wait until it is back or the sweeper finds them"
        return [Check("broker", is_well=False, is_needed=False, detail=detail)]
    return [
        Check("broker", is_well=True, is_needed=False, detail="answers"),
        # A hint that finds no queue is lost: what is accepted waits for the sweeper, and that for the queue.
        Check("topology", is_well=not misfit, is_needed=False, detail="; ".join(misfit) or "as declared"),
    ]


def _look(services: Container) -> list[str]:
    with services.broker.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=BROKER_SECONDS)
        return topology_errors(connection)


@cache
def _revisions() -> list[str]:
    """The revisions that this release knows, the newest first."""
    # Nothing else in the gateway is in need of alembic, and it takes its time to load.
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(models.migrations.__path__[0])
    return [script.revision for script in scripts.walk_revisions()]
