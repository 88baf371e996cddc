"""The news: every event with its place in its subject's order, written with the change it tells of."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from sqlalchemy import BigInteger, Column, Index, Table, Text, UniqueConstraint, Uuid, text
from sqlalchemy.dialects.postgresql import JSON as JSONType
from sqlalchemy.engine import Connection

from models.base import METADATA, arrays_of, insert_statement, moment_column
from models.vocabulary import JSON

events = Table(
    "events",
    METADATA,
    Column("id", Uuid, primary_key=True),
    Column("organization_id", BigInteger, nullable=False),
    Column("subject", Text, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("type", Text, nullable=False),
    Column("incident_id", BigInteger, nullable=True),
    Column("activity_id", BigInteger, nullable=True),
    Column("command_id", Uuid, nullable=True),
    # The CloudEvent as it goes out, on every road.
    Column("body", JSONType, nullable=False),
    moment_column("date_created"),
    moment_column("announced_at", nullable=True),
    # Events that tell nobody are born planned.
    moment_column("planned_at", nullable=True),
    UniqueConstraint("organization_id", "subject", "sequence"),
)
for _stage in ("announced_at", "planned_at"):
    Index(
        f"events_waiting_{_stage}_idx",
        events.c.organization_id,
        events.c.subject,
        events.c.sequence,
        postgresql_where=text(f"{_stage} IS NULL"),
    )


class NewEvent(NamedTuple):
    """An event about to be written. ``body`` is a string of JSON; ``planned_at`` is set if it tells nobody."""

    id: UUID
    organization_id: int
    subject: str
    sequence: int
    type: str
    incident_id: int | None
    activity_id: int | None
    command_id: UUID | None
    body: str
    planned_at: datetime | None


_INSERT: Final = insert_statement(events, NewEvent._fields)


def write_events(connection: Connection, rows: Sequence[NewEvent]) -> None:
    """Write events inside the transaction of the change they tell of."""
    if rows:
        connection.exec_driver_sql(_INSERT, dict(arrays_of(NewEvent._fields, rows)))


class WaitingEvent(NamedTuple):
    """An event that one stage has still to handle, in the order of its subject. ``body`` is parsed JSON."""

    id: UUID
    organization_id: int
    subject: str
    sequence: int
    type: str
    incident_id: int | None
    activity_id: int | None
    command_id: UUID | None
    body: JSON
    date_created: datetime


class Stage(NamedTuple):
    """A consumer of the event table: its column, and the prefix that keeps its locks apart."""

    column: str
    lock: str


ANNOUNCE: Final = Stage("announced_at", "relay:")
PLAN: Final = Stage("planned_at", "plan:")


def claim_events(connection: Connection, stage: Stage, *, subjects: int, most: int) -> list[WaitingEvent]:
    """Lock subjects with waiting events until the transaction ends, then read these in order.

    Two statements, as for commands: the second one's snapshot is younger than the locks. Never a cursor
    ``id > last`` (it misses late commits), never SKIP LOCKED over rows (it reorders a subject).
    """
    locked = connection.exec_driver_sql(
        f"""
        WITH candidates AS MATERIALIZED (
            SELECT organization_id, subject FROM (
                SELECT organization_id, subject, id FROM events WHERE {stage.column} IS NULL LIMIT %(window)s
            ) AS waiting GROUP BY organization_id, subject ORDER BY min(id) LIMIT %(candidates)s
        )
        SELECT organization_id, subject FROM candidates
        WHERE pg_try_advisory_xact_lock(hashtextextended(%(lock)s || organization_id || '/' || subject, 0))
        LIMIT %(subjects)s
        """,  # noqa: S608 - the column is one of two constants above
        {"window": 5000, "candidates": 4 * subjects, "subjects": subjects, "lock": stage.lock},
    ).all()
    if not locked:
        return []
    rows = connection.exec_driver_sql(
        f"""
        SELECT e.id, e.organization_id, e.subject, e.sequence, e.type, e.incident_id, e.activity_id, e.command_id,
               e.body, e.date_created
        FROM unnest(%(organizations)s::bigint[], %(subjects)s::text[]) AS s(organization_id, subject)
        JOIN events e ON e.organization_id = s.organization_id AND e.subject = s.subject AND e.{stage.column} IS NULL
        ORDER BY e.organization_id, e.subject, e.sequence
        LIMIT %(most)s
        """,  # noqa: S608
        {
            "organizations": [row.organization_id for row in locked],
            "subjects": [row.subject for row in locked],
            "most": most,
        },
    )
    return [WaitingEvent(*row) for row in rows]


def mark(connection: Connection, stage: Stage, ids: Sequence[UUID]) -> None:
    """The stage has handled these events."""
    connection.exec_driver_sql(
        f"UPDATE events SET {stage.column} = clock_timestamp() WHERE id = ANY(%(ids)s::uuid[])",  # noqa: S608
        {"ids": list(ids)},
    )
