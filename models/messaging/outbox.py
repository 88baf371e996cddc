"""The outbox of events. Each event is numbered within its subject.

An event is written in the same transaction as the change that it announces.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from sqlalchemy import BigInteger, Column, Index, Table, Text, UniqueConstraint, Uuid, text
from sqlalchemy.dialects.postgresql import JSON as JSONType
from sqlalchemy.engine import Connection

from models.base import (
    METADATA,
    column_arrays,
    insert_statement,
    require_columns,
    timestamp_column,
    transaction_columns,
)

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
    # The CloudEvent exactly as it is published, whatever the transport.
    Column("body", JSONType, nullable=False),
    timestamp_column("date_created"),
    timestamp_column("announced_at", nullable=True),
    # Set on insertion if the event notifies neither a person nor a webhook.
    timestamp_column("planned_at", nullable=True),
    Column("request_id", Text, nullable=True),
    Column("traceparent", Text, nullable=True),
    *transaction_columns(),
    # Deliberately not in the column order of the indexes below: with statistics gathered during a backlog, the planner
    # would otherwise scan this index, which covers the whole history, to find the subjects with waiting events.
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
    """An event to insert. ``body`` is serialized JSON, and ``planned_at`` is set if the event notifies nobody.

    If the organization has an active webhook, the event is planned nevertheless.
    """

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
    traceparent: str | None = None


DESTINATION_TABLES: Final = ("webhooks", "chat_destinations")
"""The tables of destinations to which an organization's events are sent (:mod:`workers.notify.destinations`)."""

_HAS_NO_DESTINATION: Final = " AND ".join(
    # A person's own destination asks for no events.
    f"NOT EXISTS (SELECT FROM {table} d"
    " WHERE d.organization_id = u.organization_id AND d.status = 'active' AND d.events <> '{}')"
    for table in DESTINATION_TABLES
)
_PLANNED_AT: Final = f"CASE WHEN u.planned_at IS NOT NULL AND {_HAS_NO_DESTINATION} THEN u.planned_at END"

_INSERT: Final = insert_statement(events, NewEvent._fields, computed=(("planned_at", _PLANNED_AT),))


def write_events(connection: Connection, rows: Sequence[NewEvent]) -> None:
    """Insert events, in the same transaction as the change that they announce."""
    if rows:
        connection.exec_driver_sql(_INSERT, dict(column_arrays(NewEvent._fields, rows)))


def last_sequences(connection: Connection, subjects: Sequence[str]) -> dict[str, int]:
    """Return the last sequence number of each subject that has events."""
    rows = connection.exec_driver_sql(
        "SELECT subject, max(sequence) AS last FROM events WHERE subject = ANY(%(subjects)s::text[]) GROUP BY subject",
        {"subjects": list(subjects)},
    )
    return {row.subject: row.last for row in rows}


class WaitingEvent(NamedTuple):
    """An event that a stage has not processed yet. ``body`` is serialized JSON."""

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
    traceparent: str | None


class Stage(NamedTuple):
    """A stage that processes every event once.

    ``column`` marks the events that the stage has processed, and ``lock`` is the prefix of the names of its locks.
    """

    column: str
    lock: str


PUBLISHING: Final = Stage("announced_at", "relay:")
PLANNING: Final = Stage("planned_at", "plan:")


EventSubject = tuple[int, str]
"""An organization id and a subject in the organization. Events with the same pair are processed in order."""

BEFORE_FIRST_SUBJECT: Final[EventSubject] = (0, "")
"""A pair that sorts before every event subject."""


def claim_events(
    connection: Connection,
    stage: Stage,
    *,
    subjects: int,
    per_subject: int,
    after: EventSubject = BEFORE_FIRST_SUBJECT,
    excluded: Sequence[UUID] = (),
) -> list[WaitingEvent]:
    """Lock up to ``subjects`` subjects with waiting events until the transaction ends, and return these events.

    The events are ordered by organization, subject and sequence, with at most ``per_subject`` events per subject.
    ``after`` is the last subject of the previous round: every subject is served in turn, however many events of another
    one are waiting. ``excluded`` holds the ids of events to skip.

    Locking and reading are two statements, as for commands, because the second statement's snapshot must be newer than
    the locks. A cursor ``id > last`` would miss events that are committed late, and SKIP LOCKED on rows would break the
    order within a subject.
    """
    locked = connection.exec_driver_sql(
        _LOCK_SUBJECTS.format(column=stage.column),
        {
            "organization": after[0],
            "subject": after[1],
            "excluded": list(excluded),
            "candidates": 4 * subjects,
            "most": subjects,
            "lock": stage.lock,
        },
    ).all()
    if not locked:
        return []
    return read_waiting(
        connection,
        stage,
        [(row.organization_id, row.subject) for row in locked],
        per_subject=per_subject,
        excluded=excluded,
    )


def hold_subject(connection: Connection, stage: Stage, subject: EventSubject) -> bool:
    """Lock the subject's events until the session ends, and return whether no other session has locked them.

    This is for the processing of one subject in several transactions. The connection must not return to a pool.
    """
    locked = connection.exec_driver_sql(
        "SELECT pg_try_advisory_lock(hashtextextended(%(lock)s || %(organization)s::bigint || '/' || %(subject)s, 0))",
        {"lock": stage.lock, "organization": subject[0], "subject": subject[1]},
    )
    return bool(locked.scalar_one())


def read_waiting(
    connection: Connection,
    stage: Stage,
    subjects: Sequence[EventSubject],
    *,
    per_subject: int,
    excluded: Sequence[UUID] = (),
) -> list[WaitingEvent]:
    """Return waiting events of subjects that this session has locked, as :func:`claim_events` does."""
    result = connection.exec_driver_sql(
        _READ_SUBJECTS.format(column=stage.column),
        {
            "organizations": [organization for organization, _ in subjects],
            "subjects": [subject for _, subject in subjects],
            "excluded": list(excluded),
            "per_subject": per_subject,
        },
    )
    require_columns(result, WaitingEvent._fields)
    return [WaitingEvent._make(row) for row in result]


# Steps from subject to subject through the partial index, so the cost depends on subjects, not on their events.
_LOCK_SUBJECTS: Final = """
WITH RECURSIVE waiting AS (
    (
        SELECT organization_id, subject FROM events
        WHERE {column} IS NULL AND (organization_id, subject) > (%(organization)s, %(subject)s)
            AND id <> ALL(%(excluded)s::uuid[])
        ORDER BY organization_id, subject, sequence LIMIT 1
    )
    UNION ALL
    SELECT next.organization_id, next.subject FROM waiting CROSS JOIN LATERAL (
        SELECT e.organization_id, e.subject FROM events e
        WHERE e.{column} IS NULL AND (e.organization_id, e.subject) > (waiting.organization_id, waiting.subject)
            AND e.id <> ALL(%(excluded)s::uuid[])
        ORDER BY e.organization_id, e.subject, e.sequence LIMIT 1
    ) AS next
), candidates AS MATERIALIZED (
    SELECT organization_id, subject FROM waiting LIMIT %(candidates)s
)
SELECT organization_id, subject FROM candidates
WHERE pg_try_advisory_xact_lock(hashtextextended(%(lock)s || organization_id || '/' || subject, 0))
LIMIT %(most)s
"""

_WAITING_COLUMNS: Final = ", ".join(
    f"e.{name}::text" if name == "body" else f"e.{name}" for name in WaitingEvent._fields
)

_READ_SUBJECTS: Final = f"""
SELECT {_WAITING_COLUMNS}
FROM unnest(%(organizations)s::bigint[], %(subjects)s::text[]) AS s(organization_id, subject)
CROSS JOIN LATERAL (
    SELECT * FROM events
    WHERE organization_id = s.organization_id AND subject = s.subject AND {{column}} IS NULL
        AND id <> ALL(%(excluded)s::uuid[])
    ORDER BY sequence LIMIT %(per_subject)s
) AS e
ORDER BY e.organization_id, e.subject, e.sequence
"""  # noqa: S608 - our own columns


def mark_processed(connection: Connection, stage: Stage, ids: Sequence[UUID]) -> None:
    """Record that the stage has processed these events."""
    connection.exec_driver_sql(
        f"UPDATE events SET {stage.column} = clock_timestamp() WHERE id = ANY(%(ids)s::uuid[])",  # noqa: S608
        {"ids": list(ids)},
    )


class OverdueEvents(NamedTuple):
    """The events that a stage should have processed long ago: their number, and the oldest with its age in seconds."""

    number: int
    oldest_id: UUID
    oldest_seconds: float


def find_overdue_events(connection: Connection, stage: Stage, *, older_than: float) -> OverdueEvents | None:
    """Return the events that the stage has not processed although they are older than ``older_than`` seconds.

    Return ``None`` if there is none.
    """
    row = connection.exec_driver_sql(
        "SELECT count(*) OVER () AS number, id, extract(epoch FROM clock_timestamp() - date_created) AS seconds"  # noqa: S608
        f" FROM events WHERE {stage.column} IS NULL"
        " AND date_created < clock_timestamp() - make_interval(secs => %(older_than)s)"
        " ORDER BY date_created, id LIMIT 1",
        {"older_than": older_than},
    ).one_or_none()
    return None if row is None else OverdueEvents(row.number, row.id, float(row.seconds))


def mark_waiting(connection: Connection, stage: Stage, ids: Sequence[UUID]) -> int:
    """Have the stage process these events again, and return how many of them it had processed."""
    result = connection.exec_driver_sql(
        f"UPDATE events SET {stage.column} = NULL "  # noqa: S608
        f"WHERE id = ANY(%(ids)s::uuid[]) AND {stage.column} IS NOT NULL",
        {"ids": list(ids)},
    )
    return result.rowcount
