"""Failed attempts to apply commands: retry delays, dead letters, and records of the batches in progress."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final, NamedTuple
from uuid import UUID

from sqlalchemy import Column, Table, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Connection

from models.base import METADATA, timestamp_column
from models.enums import CommandState
from models.messaging.command_ledger import IS_WAITING
from models.messaging.trace import Trace

MAX_ATTEMPTS: Final = 5
RETRY_DELAYS: Final = tuple(timedelta(seconds=seconds) for seconds in (0.2, 1, 5, 15))
"""The delays after a command's first, second, third and fourth failed attempt. After the fifth, the command is dead."""

in_flight_batches = Table(
    "batches_in_hand",
    METADATA,
    Column("worker", Text, primary_key=True),
    Column("commands", JSONB, nullable=False),
    # A batch that was interrupted by a restart of the database server is not counted as an attempt.
    timestamp_column("server_started"),
    timestamp_column("since"),
)


# --- retry -----------------------------------------------------------------------------------------------------


class FailedCommand(NamedTuple):
    """A command after a failed attempt. ``state`` is ``dead`` after the fifth attempt."""

    id: UUID
    type: str
    subject: str
    organization_id: int | None
    state: str
    attempts: int
    request_id: str | None
    traceparent: str | None

    @property
    def trace(self) -> Trace:
        """The trace ids of the request that led to the command."""
        return Trace(self.request_id, self.traceparent)


_RECORD_FAILED_ATTEMPT: Final = f"""
UPDATE commands c
SET attempts = c.attempts + 1, error = %(error)s,
    state = CASE WHEN c.attempts + 1 >= %(most)s THEN %(dead)s ELSE c.state END,
    finished_at = CASE WHEN c.attempts + 1 >= %(most)s THEN clock_timestamp() END,
    next_attempt_at = CASE WHEN c.attempts + 1 < %(most)s
        THEN clock_timestamp() + make_interval(secs => (%(delays)s::float8[])[c.attempts + 1]) END
WHERE c.id = ANY(%(ids)s::uuid[]) AND c.{IS_WAITING}
RETURNING {", ".join(f"c.{name}" for name in FailedCommand._fields)}
"""  # noqa: S608 - our own columns and condition


def record_failed_attempt(connection: Connection, ids: Sequence[UUID], *, error: str) -> list[FailedCommand]:
    """Count a failed attempt for each command that is still waiting, and return these commands.

    Each command is retried after a delay, or becomes dead after its last attempt.
    """
    rows = connection.exec_driver_sql(
        _RECORD_FAILED_ATTEMPT,
        {
            "ids": list(ids),
            "error": error,
            "most": MAX_ATTEMPTS,
            "dead": CommandState.DEAD.value,
            "delays": [delay.total_seconds() for delay in RETRY_DELAYS],
        },
    )
    return [FailedCommand(**row._asdict()) for row in rows]


# --- batches in flight -----------------------------------------------------------------------------------------


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


def lock_worker(connection: Connection, worker: str) -> None:
    """Lock the worker's record until the transaction ends, so that :func:`reap_orphaned` does not delete it."""
    connection.exec_driver_sql(
        "SELECT pg_advisory_xact_lock(hashtextextended('hand:' || %(worker)s, 0))", {"worker": worker}
    )


def reap_orphaned(connection: Connection, worker: str) -> list[UUID]:
    """Delete the records that other workers left unlocked, and return the ids of their commands.

    A worker holds its lock while it applies a batch. An unlocked record was left by a process that died or that has
    committed its batch. In the latter case the commands have outcomes, so counting an attempt has no effect. Records of
    batches that a restart of the database server interrupted are deleted, but their commands are not returned.
    """
    rows = connection.exec_driver_sql(
        "DELETE FROM batches_in_hand WHERE worker IN ("
        " SELECT worker FROM batches_in_hand WHERE worker <> %(worker)s"
        " AND pg_try_advisory_xact_lock(hashtextextended('hand:' || worker, 0)))"
        " RETURNING commands, server_started >= pg_postmaster_start_time() AS counts",
        {"worker": worker},
    )
    return [UUID(each) for row in rows if row.counts for each in row.commands]
