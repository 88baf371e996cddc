"""The news: every event with its place in its subject's order, written with the change it tells of."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from sqlalchemy import BigInteger, Column, Index, Table, Text, UniqueConstraint, Uuid, text
from sqlalchemy.dialects.postgresql import JSON as JSONType
from sqlalchemy.engine import Connection

from models.base import METADATA, column_arrays, insert_statement, moment_column, written_columns

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
    Column("request_id", Text, nullable=True),
    *written_columns(),
    # Another order than the indexes below, which alone lead from one waiting line to the next: with statistics
    # gathered during a backlog the planner would walk the whole history instead.
    UniqueConstraint("subject", "organization_id", "sequence"),
)
Index("events_written_idx", events.c.organization_id, events.c.written_by)
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
    request_id: str | None = None


_INSERT: Final = insert_statement(events, NewEvent._fields)


def write_events(connection: Connection, rows: Sequence[NewEvent]) -> None:
    """Write events inside the transaction of the change they tell of."""
    if rows:
        connection.exec_driver_sql(_INSERT, dict(column_arrays(NewEvent._fields, rows)))


class WaitingEvent(NamedTuple):
    """An event that one stage has still to handle, in the order of its subject. ``body`` is a string of JSON."""

    id: UUID
    organization_id: int
    subject: str
    sequence: int
    type: str
    incident_id: int | None
    activity_id: int | None
    command_id: UUID | None
    body: str
    date_created: datetime
    request_id: str | None


class Stage(NamedTuple):
    """A consumer of the event table: its column, and the prefix that keeps its locks apart."""

    column: str
    lock: str


PUBLISHING: Final = Stage("announced_at", "relay:")
PLANNING: Final = Stage("planned_at", "plan:")


Line = tuple[int, str]
"""An organization and a subject in it: one line of events, in sequence."""

BEFORE_FIRST_SUBJECT: Final[Line] = (0, "")
"""Before every line."""


def claim_events(
    connection: Connection,
    stage: Stage,
    *,
    subjects: int,
    per_subject: int,
    after: Line = BEFORE_FIRST_SUBJECT,
    excluded: Sequence[UUID] = (),
) -> list[WaitingEvent]:
    """Lock up to ``lines`` lines with waiting events until the transaction ends, then read these in order.

    ``after`` is the line that the round before ended with: so everyone's turn comes, however much waits on one.
    ``without`` names events to leave alone.

    Two statements, as for commands: the second one's snapshot is younger than the locks. Never a cursor
    ``id > last`` (it misses late commits), never SKIP LOCKED over rows (it reorders a line).
    """
    locked = connection.exec_driver_sql(
        _LOCK_LINES.format(column=stage.column),
        {
            "organization": after[0],
            "subject": after[1],
            "without": list(excluded),
            "candidates": 4 * subjects,
            "lines": subjects,
            "lock": stage.lock,
        },
    ).all()
    if not locked:
        return []
    rows = connection.exec_driver_sql(
        _READ_LINES.format(column=stage.column),
        {
            "organizations": [row.organization_id for row in locked],
            "subjects": [row.subject for row in locked],
            "without": list(excluded),
            "per_line": per_subject,
        },
    ).all()
    return [WaitingEvent(*row) for row in rows]


# From line to line by the index of what waits: the cost is that of the lines, not of the events.
_LOCK_LINES: Final = """
WITH RECURSIVE waiting AS (
    (
        SELECT organization_id, subject FROM events
        WHERE {column} IS NULL AND (organization_id, subject) > (%(organization)s, %(subject)s)
            AND id <> ALL(%(without)s::uuid[])
        ORDER BY organization_id, subject, sequence LIMIT 1
    )
    UNION ALL
    SELECT next.organization_id, next.subject FROM waiting CROSS JOIN LATERAL (
        SELECT e.organization_id, e.subject FROM events e
        WHERE e.{column} IS NULL AND (e.organization_id, e.subject) > (waiting.organization_id, waiting.subject)
            AND e.id <> ALL(%(without)s::uuid[])
        ORDER BY e.organization_id, e.subject, e.sequence LIMIT 1
    ) AS next
), candidates AS MATERIALIZED (
    SELECT organization_id, subject FROM waiting LIMIT %(candidates)s
)
SELECT organization_id, subject FROM candidates
WHERE pg_try_advisory_xact_lock(hashtextextended(%(lock)s || organization_id || '/' || subject, 0))
LIMIT %(lines)s
"""

_READ_LINES: Final = """
SELECT e.id, e.organization_id, e.subject, e.sequence, e.type, e.incident_id, e.activity_id, e.command_id,
       e.body::text, e.date_created, e.request_id
FROM unnest(%(organizations)s::bigint[], %(subjects)s::text[]) AS line(organization_id, subject)
CROSS JOIN LATERAL (
    SELECT * FROM events
    WHERE organization_id = line.organization_id AND subject = line.subject AND {column} IS NULL
        AND id <> ALL(%(without)s::uuid[])
    ORDER BY sequence LIMIT %(per_line)s
) AS e
ORDER BY e.organization_id, e.subject, e.sequence
"""


def mark_processed(connection: Connection, stage: Stage, ids: Sequence[UUID]) -> None:
    """The stage has handled these events."""
    connection.exec_driver_sql(
        f"UPDATE events SET {stage.column} = clock_timestamp() WHERE id = ANY(%(ids)s::uuid[])",  # noqa: S608
        {"ids": list(ids)},
    )
