"""Holds: what an operator has stopped. Held commands stay in the ledger, held deliveries stay pending.

A hold is a row. Every statement that claims or counts work reads the table itself, so a hold is in force for every
batch that begins after its commit, survives restarts, and costs a look at an empty table while there is none.
docs/decisions/0033-ops-reads.md has the measurements.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy import BigInteger, Column, Identity, Index, Table, Text, text
from sqlalchemy.engine import Connection

from models.base import METADATA, enum_check, timestamp_column
from models.enums import Lane
from models.messaging.command_ledger import IS_WAITING


class HoldScope(StrEnum):
    """What a hold holds: the commands of a queue, a type or an organization, or the deliveries of a channel.

    Holding the queue ``deliveries`` holds the deliveries of every channel.
    """

    QUEUE = "queue"
    TYPE = "type"
    CHANNEL = "channel"
    ORGANIZATION = "organization"


holds = Table(
    "holds",
    METADATA,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("scope", Text, nullable=False),
    # The name of the queue, type or channel, or the organization's slug at the time.
    Column("target", Text, nullable=False),
    Column("organization_id", BigInteger, nullable=True),
    Column("reason", Text, nullable=False),
    Column("held_by", Text, nullable=False),
    timestamp_column("since"),
    # From then on the hold is not in force. The sweeper records its release.
    timestamp_column("release_at", nullable=True),
    timestamp_column("released_at", nullable=True),
    Column("released_by", Text, nullable=True),
    enum_check("scope", [scope.value for scope in HoldScope]),
)
Index(
    "holds_in_force_key",
    holds.c.scope,
    holds.c.target,
    unique=True,
    postgresql_where=text("released_at IS NULL"),
)

IN_FORCE: Final = "h.released_at IS NULL AND coalesce(h.release_at > now(), true)"
"""The SQL condition under which the hold ``h`` is in force."""


def _held(column: str, scope: HoldScope) -> str:
    # A subquery that refers to no other row: PostgreSQL runs it once per statement.
    return f"ARRAY(SELECT h.{column} FROM holds h WHERE h.scope = '{scope}' AND {IN_FORCE})"  # noqa: S608


def is_held(row: str) -> str:
    """Return the SQL condition under which the command in ``row`` is held itself. It is never NULL."""
    return (
        f"({row}.lane = ANY({_held('target', HoldScope.QUEUE)})"
        f" OR {row}.type = ANY({_held('target', HoldScope.TYPE)})"
        f" OR coalesce({row}.organization_id = ANY({_held('organization_id', HoldScope.ORGANIZATION)}), false))"
    )


def is_queue_held(queue: str) -> str:
    """Return the SQL condition under which a queue, an SQL expression, is held."""
    return f"{queue} = ANY({_held('target', HoldScope.QUEUE)})"


def is_channel_held(channel: str) -> str:
    """Return the SQL condition under which the deliveries of a channel, an SQL expression, are held."""
    return (
        f"({channel} = ANY({_held('target', HoldScope.CHANNEL)})"
        f" OR '{Lane.DELIVERIES}' = ANY({_held('target', HoldScope.QUEUE)}))"
    )


# --- which hold --------------------------------------------------------------------------------------------------


class HeldCommand(NamedTuple):
    """A waiting command that a hold keeps from being applied: its own, or that of a command before it."""

    command_id: UUID
    hold_id: int
    scope: str
    target: str
    reason: str
    since: datetime
    release_at: datetime | None


EARLIER_COMMANDS: Final = 200
"""How many of a subject's waiting commands are searched at most for one that is held."""

FIND_HELD: Final = f"""
SELECT c.id AS command_id, h.id AS hold_id, h.scope, h.target, h.reason, h.since, h.release_at
FROM commands c
CROSS JOIN LATERAL (
    SELECT h.* FROM (
        (SELECT c.subject, c.lane, c.type, c.organization_id, c.seq)
        UNION ALL
        (SELECT e.subject, e.lane, e.type, e.organization_id, e.seq FROM commands e
         WHERE e.subject = c.subject AND e.{IS_WAITING} AND e.seq < c.seq
             AND e.seq >= (SELECT coalesce(max(seq), 0) FROM command_floor)
         ORDER BY e.seq LIMIT {EARLIER_COMMANDS})
    ) AS e
    JOIN holds h ON {IN_FORCE} AND (
        h.scope = '{HoldScope.QUEUE}' AND h.target = e.lane
        OR h.scope = '{HoldScope.TYPE}' AND h.target = e.type
        OR h.scope = '{HoldScope.ORGANIZATION}' AND h.organization_id = e.organization_id
    )
    ORDER BY e.seq DESC, h.id LIMIT 1
) AS h
WHERE c.id = ANY(%(ids)s::uuid[]) AND c.{IS_WAITING}
"""  # noqa: S608 - our own conditions
"""The statement that finds which of the commands in ``ids`` are held, with the columns of :class:`HeldCommand`.

A command behind a held one of its subject waits for the same hold. Its own hold is named first.
"""

ANY_HOLD_IN_FORCE: Final = f"SELECT EXISTS (SELECT FROM holds h WHERE {IN_FORCE})"  # noqa: S608


def held_command_from_row(row: Any) -> HeldCommand:
    """Build a held command from a row of :data:`FIND_HELD`."""
    return HeldCommand(**row._mapping)


def find_held(connection: Connection, ids: Iterable[UUID]) -> dict[UUID, HeldCommand]:
    """Return which of these commands are held, and by which hold, by command id."""
    rows = connection.exec_driver_sql(FIND_HELD, {"ids": list(ids)})
    return {row.command_id: held_command_from_row(row) for row in rows}
