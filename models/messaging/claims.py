"""Claims: how workers find, lock and read the commands that wait in the ledger.

A worker first finds subjects that may have work: hints name them, and :func:`scan_for_subjects` finds those whose hints
were lost. It then locks subjects, and finally reads their commands in a later statement, because a statement's snapshot
is older than the locks that it takes.

The cost of each statement is bounded. It does not grow with the number of finished commands, with the number of
commands behind a subject that cannot proceed, with the age of the oldest snapshot in the database (a backup keeps the
index entries of finished commands alive), or with the age of the planner's statistics.
docs/decisions/0028-fair-claims.md has the measurements.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy import BigInteger, Column, Table
from sqlalchemy.engine import Connection

from models.base import METADATA, require_columns
from models.enums import Lane
from models.messaging.command_ledger import IS_WAITING
from models.messaging.command_type import versioned_type_sql
from models.messaging.trace import Trace
from models.types import JSON

command_floor = Table(
    "command_floor",
    METADATA,
    # No command with a lower seq is waiting, or ever will be.
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
)

FROM_FLOOR: Final = f"c.{IS_WAITING} AND c.seq >= (SELECT coalesce(max(seq), 0) FROM command_floor)"  # noqa: S608
"""The SQL condition for waiting commands ``c``. It starts at the floor, to skip the index entries of finished
commands."""

HEAD: Final = f"""
CROSS JOIN LATERAL (
    SELECT * FROM commands c WHERE c.subject = s.subject AND {FROM_FLOOR} ORDER BY c.seq LIMIT 1
) AS head
"""  # noqa: S608 - our own condition
"""The SQL join that adds its first waiting command to each subject ``s``. Subjects without one are left out."""

ROWS_PER_SCAN: Final = 1_000
SPAN_PER_SCAN: Final = 20_000
"""The maximum number of values of ``seq`` that a scan covers, because finished commands may have index entries, too."""


# --- find --------------------------------------------------------------------------------------------------------


class Scan(NamedTuple):
    """The subjects that a scan found, in the order of their oldest commands within it.

    ``after`` is the ``seq`` after which the next scan continues, or 0 if this one has reached the end.
    """

    subjects: list[str]
    after: int


_SCAN: Final = f"""
SELECT l.lane, looked.subjects,
       CASE WHEN looked.rows >= %(rows)s THEN looked.last
            WHEN place.after + %(span)s < (SELECT max(seq) FROM commands) THEN place.after + %(span)s
            ELSE 0 END AS after
FROM unnest(%(lanes)s::text[], %(after)s::bigint[]) AS l(lane, after)
CROSS JOIN LATERAL (
    SELECT greatest(l.after, (SELECT coalesce(max(seq), 0) - 1 FROM command_floor)) AS after
) AS place
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(subject ORDER BY first), '{{}}') AS subjects, sum(rows) AS rows, max(last) AS last
    FROM (
        SELECT found.subject, min(found.seq) AS first, max(found.seq) AS last, count(*) AS rows FROM (
            SELECT c.subject, c.seq FROM commands c
            WHERE c.lane = l.lane AND c.{IS_WAITING} AND c.seq > place.after AND c.seq <= place.after + %(span)s
            ORDER BY c.lane, c.seq LIMIT %(rows)s
        ) AS found GROUP BY found.subject
    ) AS by_subject
) AS looked
"""  # noqa: S608 - our own condition


def scan_for_subjects(
    connection: Connection, after: Mapping[Lane, int], *, rows: int = ROWS_PER_SCAN, span: int = SPAN_PER_SCAN
) -> dict[Lane, Scan]:
    """Return the subjects of each lane's next waiting commands. ``after`` maps each lane to the ``seq`` to start after.

    The scan of a lane reads at most ``rows`` commands, and covers at most ``span`` values of ``seq``.
    """
    parameters = {"lanes": [lane.value for lane in after], "after": list(after.values()), "rows": rows, "span": span}
    found = connection.exec_driver_sql(_SCAN, parameters)
    return {Lane(row.lane): Scan(row.subjects, int(row.after)) for row in found}


# --- lock --------------------------------------------------------------------------------------------------------


class Locked(NamedTuple):
    """The subjects that were locked, and the number of offered subjects that were examined."""

    subjects: list[str]
    examined: int


_LOCK: Final = f"""
WITH ready AS MATERIALIZED (
    SELECT s.subject, s.ordinal
    FROM unnest(%(subjects)s::text[]) WITH ORDINALITY AS s(subject, ordinal) {HEAD}
    WHERE coalesce(head.next_attempt_at <= now(), true) AND {versioned_type_sql("head")} = ANY(%(known)s::text[])
    ORDER BY s.ordinal
)
SELECT subject, ordinal FROM ready
WHERE pg_try_advisory_xact_lock(hashtextextended('apply:' || subject, 0))
LIMIT %(most)s
"""  # noqa: S608 - our own condition


def lock_subjects(connection: Connection, offered: Sequence[str], *, known_types: Collection[str], most: int) -> Locked:
    """Lock up to ``most`` of the offered subjects, in their order, until the transaction ends.

    A subject is skipped if it has no waiting command, if its first one is not due or has an unknown type or payload
    version, or if another worker holds the lock. Commands of unknown types wait for a worker of a newer release.
    """
    if not offered:
        return Locked([], 0)
    parameters = {"subjects": list(offered), "known": list(known_types), "most": most}
    rows = connection.exec_driver_sql(_LOCK, parameters).all()
    return Locked([row.subject for row in rows], rows[-1].ordinal if len(rows) == most else len(offered))


# --- read --------------------------------------------------------------------------------------------------------


class ClaimedCommand(NamedTuple):
    """A command that a worker has claimed. ``payload`` is parsed JSON."""

    id: UUID
    seq: int
    type: str
    subject: str
    organization_id: int | None
    token_id: int | None
    user_id: int | None
    payload: JSON
    accepted_at: datetime
    attempts: int
    timeouts: int
    expected_version: int | None
    request_id: str | None
    traceparent: str | None

    @property
    def is_suspect(self) -> bool:
        """Whether the command has failed or timed out before, so that it must be applied alone."""
        return self.attempts > 0 or self.timeouts > 0

    @property
    def trace(self) -> Trace:
        """The trace ids of the request that led to the command."""
        return Trace(self.request_id, self.traceparent)


# Round-robin: the first command of each subject, then the second of each, and so on.
_READ: Final = f"""
SELECT {", ".join(f"dealt.{name}" for name in ClaimedCommand._fields)},
       coalesce(dealt.next_attempt_at > now(), false)
           OR {versioned_type_sql("dealt")} <> ALL(%(known)s::text[]) AS must_wait
FROM (
    SELECT c.*, s.ordinal, row_number() OVER (PARTITION BY c.subject ORDER BY c.seq) AS turn
    FROM unnest(%(subjects)s::text[], %(most_of_each)s::bigint[]) WITH ORDINALITY AS s(subject, most, ordinal)
    CROSS JOIN LATERAL (
        SELECT * FROM commands c WHERE c.subject = s.subject AND {FROM_FLOOR} ORDER BY c.seq LIMIT s.most
    ) AS c
) AS dealt
ORDER BY dealt.turn, dealt.ordinal
LIMIT %(most)s
"""  # noqa: S608 - our own columns and condition


def read_commands(
    connection: Connection, subjects: Mapping[str, int], *, known_types: Collection[str], most: int
) -> list[ClaimedCommand]:
    """Return up to ``most`` of the locked subjects' first commands, selected round-robin and sorted by ``seq``.

    ``subjects`` maps each subject to the maximum number of its commands. A subject is read only up to its first command
    that is not due or has an unknown type or payload version.
    """
    result = connection.exec_driver_sql(
        _READ,
        {
            "subjects": list(subjects),
            "most_of_each": list(subjects.values()),
            "known": list(known_types),
            "most": most,
        },
    )
    require_columns(result, (*ClaimedCommand._fields, "must_wait"))
    ready: list[ClaimedCommand] = []
    paused: set[str] = set()
    for row in sorted(result, key=_seq_of):
        if row.must_wait:
            paused.add(row.subject)
        if row.subject not in paused:
            ready.append(ClaimedCommand._make(row[:-1]))
    return ready


def _seq_of(row: Any) -> int:
    seq: int = row.seq
    return seq


# --- the floor ---------------------------------------------------------------------------------------------------


class FloorCandidate(NamedTuple):
    """A ``seq`` that may become the floor as soon as every transaction below ``xmax`` has ended."""

    seq: int
    xmax: int


_PROPOSE_FLOOR: Final = """
SELECT coalesce(max(seq), 0) + 1 AS seq, pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS xmax FROM commands
"""
_RAISE_FLOOR: Final = f"""
WITH lowest AS MATERIALIZED (
    SELECT least(
        %(seq)s::bigint,
        (SELECT min(head.seq) FROM unnest(%(lanes)s::text[]) AS l(lane) CROSS JOIN LATERAL (
            SELECT c.seq FROM commands c WHERE c.lane = l.lane AND {FROM_FLOOR} ORDER BY c.lane, c.seq LIMIT 1
        ) AS head)
    ) AS seq
)
UPDATE command_floor SET seq = lowest.seq FROM lowest
WHERE command_floor.seq < lowest.seq
    AND pg_snapshot_xmin(pg_current_snapshot())::text::bigint >= %(xmax)s
"""  # noqa: S608 - our own condition


def propose_floor(connection: Connection) -> FloorCandidate:
    """Return a candidate for :func:`raise_floor`, which must be called on the same connection.

    A command with a lower ``seq`` that this snapshot does not see belongs to a transaction that is still running: a
    transaction gets its id before it draws a ``seq`` (:data:`~models.messaging.command_ledger.ACCEPT_COMMANDS`).
    """
    row = connection.exec_driver_sql(_PROPOSE_FLOOR).one()
    return FloorCandidate(row.seq, row.xmax)


def raise_floor(connection: Connection, candidate: FloorCandidate) -> bool:
    """Raise the floor to the candidate, or to the first waiting command below it.

    Return whether the floor was raised. It is not raised while a transaction that may have drawn a lower ``seq`` is
    still running. The connection must be the one that proposed the candidate: after a crash of the server, or a
    failover, the candidate is meaningless.
    """
    parameters = {"seq": candidate.seq, "xmax": candidate.xmax, "lanes": [lane.value for lane in Lane]}
    return bool(connection.exec_driver_sql(_RAISE_FLOOR, parameters).rowcount)
