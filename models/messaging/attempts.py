"""Failed attempts to apply commands: retry delays, dead letters, and records of the batches in flight."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final, NamedTuple
from uuid import UUID

from sqlalchemy import BigInteger, Column, Identity, Index, Table, Text, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Connection

from models.base import METADATA, timestamp_column
from models.enums import CommandState
from models.messaging.command_ledger import IS_WAITING
from models.messaging.trace import Trace

MAX_ATTEMPTS: Final = 5
RETRY_DELAYS: Final = tuple(timedelta(seconds=seconds) for seconds in (0.2, 1, 5, 15))
"""The delays after a command's first, second, third and fourth failed attempt. After the fifth, the command is dead."""

MAX_TIMEOUTS: Final = 5
TIMEOUT_DELAYS: Final = tuple(timedelta(seconds=seconds) for seconds in (1, 5, 15, 60))
"""The delays after a command's first, second, third and fourth timeout. They are longer than those after failed
attempts, because the database may be the cause. After the fifth, the command is dead."""

in_flight_batches = Table(
    "batches_in_hand",
    METADATA,
    Column("worker", Text, primary_key=True),
    Column("commands", JSONB, nullable=False),
    timestamp_column("since"),
    timestamp_column("server_started"),
    # A crash of the database server empties an unlogged table, so the batches that it interrupted count as no attempts.
    prefixes=["UNLOGGED"],
)


# --- retry -----------------------------------------------------------------------------------------------------


# What operators see in a command's timeline: the command itself has only its last error.
command_failures = Table(
    "command_failures",
    METADATA,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("command_id", Uuid, nullable=False),
    timestamp_column("at"),
    Column("error", Text, nullable=False),
)
Index("command_failures_command_id_idx", command_failures.c.command_id)


class FailedCommand(NamedTuple):
    """A command after a failed attempt or a timeout. ``state`` is ``dead`` after the fifth of either kind."""

    id: UUID
    type: str
    subject: str
    organization_id: int | None
    state: str
    attempts: int
    timeouts: int
    request_id: str | None
    traceparent: str | None

    @property
    def failures(self) -> int:
        """The number of failed attempts plus timeouts."""
        return self.attempts + self.timeouts

    @property
    def trace(self) -> Trace:
        """The trace ids of the request that led to the command."""
        return Trace(self.request_id, self.traceparent)


FINGERPRINT: Final = r"""
left(md5(c.type || ' ' || regexp_replace(%(error)s::text, '[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}|[0-9]+', '#', 'g')), 16)
"""
"""The SQL expression by which dead letters are grouped: the type, and the error without ids and numbers."""


def _counting(column: str) -> str:
    return f"""
UPDATE commands c
SET {column} = c.{column} + f.times, error = %(error)s,
    state = CASE WHEN c.{column} + f.times >= %(most)s THEN %(dead)s ELSE c.state END,
    finished_at = CASE WHEN c.{column} + f.times >= %(most)s THEN clock_timestamp() END,
    fingerprint = CASE WHEN c.{column} + f.times >= %(most)s THEN {FINGERPRINT} END,
    next_attempt_at = CASE WHEN c.{column} + f.times < %(most)s
        THEN clock_timestamp() + make_interval(secs => (%(delays)s::float8[])[c.{column} + f.times]) END
FROM (SELECT id, count(*) AS times FROM unnest(%(ids)s::uuid[]) AS u(id) GROUP BY id) AS f
WHERE c.id = f.id AND c.{IS_WAITING}
RETURNING {", ".join(f"c.{name}" for name in FailedCommand._fields)}
"""  # noqa: S608 - our own columns and condition


# The last failure is the moment of the death.
_RECORD_FAILURES: Final = """
INSERT INTO command_failures (command_id, at, error)
SELECT c.id, coalesce(c.finished_at, clock_timestamp()), %(error)s FROM commands c WHERE c.id = ANY(%(ids)s::uuid[])
"""
_COUNT_ATTEMPTS: Final = _counting("attempts")
_COUNT_TIMEOUTS: Final = _counting("timeouts")


def count_attempts(connection: Connection, ids: Sequence[UUID], *, error: str) -> list[FailedCommand]:
    """Count a failed attempt for each command that is still waiting, and return these commands.

    Each command is retried after a delay, or becomes dead after its last attempt. A command that is named several times
    has failed that many times.
    """
    return _count(connection, _COUNT_ATTEMPTS, ids, error, most=MAX_ATTEMPTS, delays=RETRY_DELAYS)


def count_timeouts(connection: Connection, ids: Sequence[UUID], *, error: str) -> list[FailedCommand]:
    """Count a timeout for each command that is still waiting, and return these commands.

    Timeouts are counted separately from failed attempts and have longer delays.
    """
    return _count(connection, _COUNT_TIMEOUTS, ids, error, most=MAX_TIMEOUTS, delays=TIMEOUT_DELAYS)


def _count(
    connection: Connection, statement: str, ids: Sequence[UUID], error: str, *, most: int, delays: Sequence[timedelta]
) -> list[FailedCommand]:
    rows = connection.exec_driver_sql(
        statement,
        {
            "ids": list(ids),
            "error": error,
            "most": most,
            "dead": CommandState.DEAD.value,
            "delays": [delay.total_seconds() for delay in delays],
        },
    )
    failed = [FailedCommand(**row._asdict()) for row in rows]
    if failed:
        connection.exec_driver_sql(_RECORD_FAILURES, {"ids": [each.id for each in failed], "error": error})
    return failed


def mark_alone(connection: Connection, ids: Sequence[UUID]) -> None:
    """Have these commands applied alone, each in a transaction of its own. Nothing is counted against them."""
    connection.exec_driver_sql(
        f"UPDATE commands SET is_alone = true WHERE id = ANY(%(ids)s::uuid[]) AND {IS_WAITING}",  # noqa: S608
        {"ids": list(ids)},
    )


_POSTPONE: Final = f"""
UPDATE commands SET next_attempt_at = clock_timestamp() + %(delay)s
WHERE id = ANY(ARRAY(SELECT id FROM commands WHERE id = ANY(%(ids)s::uuid[]) AND {IS_WAITING} FOR UPDATE SKIP LOCKED))
"""  # noqa: S608 - our own condition


def postpone(connection: Connection, ids: Sequence[UUID], *, delay: timedelta) -> None:
    """Postpone the next attempt of waiting commands by ``delay``. Nothing is counted against them.

    A command whose row is locked keeps its time: the lock may be what it has to wait for.
    """
    connection.exec_driver_sql(_POSTPONE, {"ids": list(ids), "delay": delay})


# --- batches in flight -----------------------------------------------------------------------------------------


def lock_worker(connection: Connection, worker: str) -> None:
    """Take the worker's advisory lock until the session ends, so that :func:`reap_orphaned` skips its record."""
    connection.exec_driver_sql(
        "SELECT pg_advisory_lock_shared(hashtextextended('hand:' || %(worker)s, 0))", {"worker": worker}
    )


def lock_worker_in_transaction(connection: Connection, worker: str) -> None:
    """Take the worker's advisory lock a second time, until the transaction ends.

    It protects the record if the session of :func:`lock_worker` is lost while the worker lives.
    """
    connection.exec_driver_sql(
        "SELECT pg_advisory_xact_lock_shared(hashtextextended('hand:' || %(worker)s, 0))", {"worker": worker}
    )


def record_in_flight(connection: Connection, worker: str, ids: Sequence[UUID]) -> None:
    """Record the commands that a worker is about to apply. Commit the record before applying them."""
    connection.exec_driver_sql(
        "INSERT INTO batches_in_hand (worker, commands, server_started, since)"
        " VALUES (%(worker)s, to_jsonb(%(ids)s::uuid[]), pg_postmaster_start_time(), clock_timestamp())"
        " ON CONFLICT (worker) DO UPDATE SET commands = excluded.commands, server_started = excluded.server_started,"
        " since = excluded.since",
        {"worker": worker, "ids": list(ids)},
    )


def clear_in_flight(connection: Connection, worker: str) -> None:
    """Delete the record of the worker's batch."""
    connection.exec_driver_sql("DELETE FROM batches_in_hand WHERE worker = %(worker)s", {"worker": worker})


def has_orphaned(autocommit: Connection, worker: str) -> bool:
    """Return whether :func:`reap_orphaned` would find a record. The connection must commit each statement."""
    return bool(autocommit.exec_driver_sql(_HAS_ORPHANED, {"worker": worker}).scalar_one())


_IS_ORPHANED: Final = "worker <> %(worker)s AND pg_try_advisory_xact_lock(hashtextextended('hand:' || worker, 0))"
_HAS_ORPHANED: Final = f"SELECT EXISTS (SELECT FROM batches_in_hand WHERE {_IS_ORPHANED})"  # noqa: S608 - our own condition


def reap_orphaned(connection: Connection, worker: str) -> list[UUID]:
    """Delete the records that other workers left unlocked, and return the ids of their commands.

    A worker's session holds its lock for as long as the process lives, so an unlocked record was left by a process that
    died. Its commands are still waiting, unless the process had committed its batch. A command that is in several
    records is returned several times. A batch that was interrupted by a restart of the database server does not count.
    """
    rows = connection.exec_driver_sql(
        f"DELETE FROM batches_in_hand WHERE worker IN (SELECT worker FROM batches_in_hand WHERE {_IS_ORPHANED})"  # noqa: S608
        " RETURNING commands, server_started = pg_postmaster_start_time() AS counts",
        {"worker": worker},
    )
    return [UUID(each) for row in rows if row.counts for each in row.commands]
