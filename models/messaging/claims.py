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
from models.enums import CommandState, Lane
from models.messaging.command_ledger import IS_WAITING
from models.messaging.command_type import versioned_type_sql
from models.messaging.hold import ANY_HOLD_IN_FORCE, is_held, is_queue_held
from models.messaging.trace import Trace
from models.types import JSON

command_floor = Table(
    "command_floor",
    METADATA,
    # No command with a lower seq is waiting.
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    # How often the floor was lowered for commands that were requeued.
    Column("lowered", BigInteger, nullable=False, server_default="0"),
)

FROM_FLOOR: Final = f"c.{IS_WAITING} AND c.seq >= (SELECT coalesce(max(seq), 0) FROM command_floor)"  # noqa: S608
"""The SQL condition for waiting commands ``c``, held or not. It starts at the floor, to skip the index entries of
finished commands."""

HEAD: Final = f"""
CROSS JOIN LATERAL (
    SELECT * FROM commands c WHERE c.subject = s.subject AND {FROM_FLOOR} ORDER BY c.seq LIMIT 1
) AS head
"""  # noqa: S608 - our own condition
"""The SQL join that adds its first waiting command to each subject ``s``. Subjects without one are left out."""

ROWS_PER_SCAN: Final = 1_000
SPAN_PER_SCAN: Final = 20_000
"""The maximum number of values of ``seq`` that a scan covers, because finished commands may have index entries, too."""


LATEST: Final = 2_000
"""How many values of ``seq`` at the end of the ledger count as the newest."""


def find_any_hold(connection: Connection) -> bool:
    """Return whether any hold is in force. If not, the other functions may be called with ``any_holds=False``.

    Their statements then do without the conditions about holds, which cost about as much as all holds together.
    """
    return bool(connection.exec_driver_sql(ANY_HOLD_IN_FORCE).scalar_one())


# --- find --------------------------------------------------------------------------------------------------------


class Scan(NamedTuple):
    """The result of a scan of a lane.

    ``subjects`` are those of the next waiting commands, the oldest first, and ``newest`` those of the commands that
    were accepted last, the newest first. ``after`` is the ``seq`` after which the next scan continues, or 0 at the end.
    """

    subjects: list[str]
    newest: list[str]
    after: int


def _scan_statement(*, any_holds: bool) -> str:
    is_lane_held = is_queue_held("l.lane") if any_holds else "false"
    return f"""
SELECT l.lane, scanned.subjects, latest.subjects AS newest,
       CASE WHEN l.most = 0 THEN l.after
            WHEN {is_lane_held} THEN 0
            WHEN scanned.rows >= l.most THEN scanned.last
            WHEN place.after + %(span)s < ending.seq THEN place.after + %(span)s
            ELSE 0 END AS after
FROM unnest(%(lanes)s::text[], %(after)s::bigint[], %(most)s::bigint[]) AS l(lane, after, most)
CROSS JOIN (SELECT coalesce(max(seq), 0) AS seq FROM commands) AS ending
CROSS JOIN (SELECT coalesce(max(seq), 0) - 1 AS seq FROM command_floor) AS floor
CROSS JOIN LATERAL (SELECT greatest(l.after, floor.seq) AS after) AS place
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(subject ORDER BY first), '{{}}') AS subjects, sum(rows) AS rows, max(last) AS last
    FROM (
        SELECT found.subject, min(found.seq) AS first, max(found.seq) AS last, count(*) AS rows FROM (
            SELECT c.subject, c.seq FROM commands c
            WHERE NOT {is_lane_held}
            AND c.lane = l.lane AND c.{IS_WAITING} AND c.seq > place.after AND c.seq <= place.after + %(span)s
            ORDER BY c.lane, c.seq LIMIT l.most
        ) AS found GROUP BY found.subject
    ) AS by_subject
) AS scanned
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(subject ORDER BY last DESC), '{{}}') AS subjects
    FROM (
        SELECT found.subject, max(found.seq) AS last FROM (
            SELECT c.subject, c.seq FROM commands c
            WHERE NOT {is_lane_held}
            AND c.lane = l.lane AND c.{IS_WAITING} AND c.seq > greatest(floor.seq, ending.seq - %(latest)s)
            ORDER BY c.lane DESC, c.seq DESC LIMIT %(newest)s
        ) AS found GROUP BY found.subject
    ) AS by_subject
) AS latest
"""  # noqa: S608 - our own condition


_SCAN: Final = {any_holds: _scan_statement(any_holds=any_holds) for any_holds in (False, True)}


def scan_for_subjects(
    connection: Connection,
    after: Mapping[Lane, int],
    *,
    rows: int = ROWS_PER_SCAN,
    span: int = SPAN_PER_SCAN,
    newest: int = 0,
    only_newest: Collection[Lane] = (),
    any_holds: bool = True,
) -> dict[Lane, Scan]:
    """Return the subjects of each lane's next waiting commands. ``after`` maps each lane to the ``seq`` to start after.

    The scan of a lane reads at most ``rows`` commands and covers at most ``span`` values of ``seq``. In addition, it
    reads up to ``newest`` waiting commands among the last :data:`LATEST` of the ledger; of the lanes in
    ``only_newest``, nothing else. Of a lane that is held, it reads nothing.
    """
    parameters = {
        "lanes": [lane.value for lane in after],
        "after": list(after.values()),
        "most": [0 if lane in only_newest else rows for lane in after],
        "span": span,
        "newest": newest,
        "latest": LATEST,
    }
    found = connection.exec_driver_sql(_SCAN[any_holds], parameters)
    return {Lane(row.lane): Scan(row.subjects, row.newest, int(row.after)) for row in found}


def scan_on(
    connection: Connection,
    scans: Mapping[Lane, Scan],
    *,
    most: int,
    rows: int = ROWS_PER_SCAN,
    span: int = SPAN_PER_SCAN,
    any_holds: bool = True,
) -> dict[Lane, Scan]:
    """Continue these scans, up to ``most`` times, until they find something or reach the end of the ledger.

    The ledger may have long stretches of finished commands above one that cannot proceed.
    """
    found = dict(scans)
    for _ in range(most):
        places = {lane: scan.after for lane, scan in found.items() if scan.after and not scan.subjects}
        if not places:
            break
        for lane, scan in scan_for_subjects(connection, places, rows=rows, span=span, any_holds=any_holds).items():
            found[lane] = scan._replace(newest=found[lane].newest)
    return found


# --- lock --------------------------------------------------------------------------------------------------------


class Locked(NamedTuple):
    """The subjects that were locked, and the number of offered subjects that were examined."""

    subjects: list[str]
    examined: int


_TRY_LOCK: Final = "pg_try_advisory_xact_lock(hashtextextended('apply:' || subject, 0))"


def _lock_statement(*, any_holds: bool) -> str:
    return f"""
WITH ready AS MATERIALIZED (
    SELECT s.subject, s.ordinal
    FROM unnest(%(subjects)s::text[]) WITH ORDINALITY AS s(subject, ordinal) {HEAD}
    WHERE coalesce(head.next_attempt_at <= now(), true) AND {versioned_type_sql("head")} = ANY(%(known)s::text[])
        AND NOT {is_held("head") if any_holds else "false"}
    ORDER BY s.ordinal
)
SELECT subject, ordinal FROM ready
WHERE {_TRY_LOCK}
LIMIT %(most)s
"""  # noqa: S608 - our own condition


_LOCK: Final = {any_holds: _lock_statement(any_holds=any_holds) for any_holds in (False, True)}


def lock_subjects(
    connection: Connection,
    offered: Sequence[str],
    *,
    known_types: Collection[str],
    most: int,
    any_holds: bool = True,
) -> Locked:
    """Lock up to ``most`` of the offered subjects, in their order, until the transaction ends.

    A subject is skipped if it has no waiting command, if its first one is held, is not due or has an unknown type or
    payload version, or if another worker has the lock. Commands of unknown types wait for a worker of a newer release.
    """
    if not offered:
        return Locked([], 0)
    parameters = {"subjects": list(offered), "known": list(known_types), "most": most}
    rows = connection.exec_driver_sql(_LOCK[any_holds], parameters).all()
    return Locked([row.subject for row in rows], rows[-1].ordinal if len(rows) == most else len(offered))


# --- read --------------------------------------------------------------------------------------------------------


class ClaimedCommand(NamedTuple):
    """A command that a worker has claimed. ``payload`` is parsed JSON.

    Without ``token_id``, the command comes from tocsin itself or, if ``caller`` names a person, from that person's
    session.
    """

    id: UUID
    seq: int
    type: str
    subject: str
    lane: str
    organization_id: int | None
    token_id: int | None
    user_id: int | None
    caller: str
    payload: JSON
    accepted_at: datetime
    attempts: int
    timeouts: int
    is_alone: bool
    expected_version: int | None
    request_id: str | None
    traceparent: str | None

    @property
    def is_suspect(self) -> bool:
        """Whether the command has failed or timed out before, so that it must be applied alone."""
        return self.is_alone or self.attempts > 0 or self.timeouts > 0

    @property
    def trace(self) -> Trace:
        """The trace ids of the request that led to the command."""
        return Trace(self.request_id, self.traceparent)


# Round-robin: the first command of each subject, then the second of each, and so on.
def _read_statement(*, any_holds: bool) -> str:
    return f"""
SELECT {", ".join(f"dealt.{name}" for name in ClaimedCommand._fields)},
       coalesce(dealt.next_attempt_at > now(), false)
           OR {versioned_type_sql("dealt")} <> ALL(%(known)s::text[])
           OR {is_held("dealt") if any_holds else "false"} AS must_wait
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


_READ: Final = {any_holds: _read_statement(any_holds=any_holds) for any_holds in (False, True)}


def read_commands(
    connection: Connection,
    subjects: Mapping[str, int],
    *,
    known_types: Collection[str],
    most: int,
    any_holds: bool = True,
) -> list[ClaimedCommand]:
    """Return up to ``most`` of the locked subjects' first commands, selected round-robin and sorted by ``seq``.

    ``subjects`` maps each subject to the maximum number of its commands. A subject is read only up to its first command
    that is held, is not due or has an unknown type or payload version.
    """
    result = connection.exec_driver_sql(
        _READ[any_holds],
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


# --- cancel ------------------------------------------------------------------------------------------------------

# The statement's snapshot is older than the lock. PostgreSQL checks the condition of the UPDATE again if the row has
# changed since then, so a command that a worker has just finished is left alone.
CANCEL_COMMAND: Final = f"""
WITH unclaimed AS MATERIALIZED (
    SELECT id FROM commands WHERE id = %(id)s AND {IS_WAITING} AND {_TRY_LOCK}
)
UPDATE commands c SET state = '{CommandState.DISCARDED}', finished_at = clock_timestamp()
FROM unclaimed WHERE c.id = unclaimed.id AND c.{IS_WAITING}
RETURNING c.subject, c.lane
"""  # noqa: S608 - our own condition
"""The statement that discards a waiting command. It changes nothing while a worker holds the lock of the subject."""


# --- the floor ---------------------------------------------------------------------------------------------------


class FloorCandidate(NamedTuple):
    """A ``seq`` that may become the floor as soon as every transaction with an id below ``xid`` has ended.

    ``floor`` is the present floor.
    """

    seq: int
    xid: int
    floor: int


SPAN_PER_RAISE: Final = 100_000
"""The maximum number of values of ``seq`` by which a statement raises the floor, because it reads all their rows."""

# The id of our own transaction, which is younger than every transaction that had an id when the snapshot was taken. The
# snapshot's xmax would not do: it is the id after the latest transaction that has ended, not after the latest one.
_PROPOSE_FLOOR: Final = """
SELECT coalesce((SELECT max(seq) FROM commands), 0) + 1 AS seq, pg_current_xact_id()::text::bigint AS xid,
       (SELECT coalesce(max(seq), 0) FROM command_floor) AS floor
"""
_HAVE_ENDED: Final = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint >= %(xid)s"

# By seq, not by lane: a later release may have a lane of which this one does not know.
_RAISE_FLOOR: Final = f"""
WITH span AS MATERIALIZED (
    SELECT seq AS first, least(%(seq)s::bigint, seq + %(span)s) AS last, lowered FROM command_floor
), lowest AS MATERIALIZED (
    SELECT coalesce(
        (SELECT c.seq FROM commands c WHERE c.{IS_WAITING}
            AND c.seq >= (SELECT first FROM span) AND c.seq < (SELECT last FROM span) ORDER BY c.seq LIMIT 1),
        (SELECT last FROM span)
    ) AS seq
)
UPDATE command_floor SET seq = lowest.seq FROM lowest, span
WHERE command_floor.seq < lowest.seq AND command_floor.lowered = span.lowered
"""  # noqa: S608 - our own condition


# Commits with the requeue. A concurrent statement that raises the floor waits for this row, and then finds that it has
# been lowered since it looked for waiting commands; or this one waits, and lowers what the other has raised.
_LOWER_FLOOR: Final = "UPDATE command_floor SET seq = least(seq, %(seq)s::bigint), lowered = lowered + 1"


def lower_floor(connection: Connection, seq: int) -> None:
    """Lower the floor to ``seq``, unless it is lower already, for a command that waits again.

    Call it in the transaction that makes the command wait, and as the last statement: the row stays locked until the
    transaction ends.
    """
    connection.exec_driver_sql(_LOWER_FLOOR, {"seq": seq})


def propose_floor(connection: Connection) -> FloorCandidate:
    """Return a candidate for :func:`raise_floor`, which must be called on the same connection, in a later transaction.

    A command with a lower ``seq`` that this snapshot does not see belongs to a transaction that is still running, and
    that had its id before the snapshot was taken: a transaction gets its id before it draws a ``seq``
    (:data:`~models.messaging.command_ledger.ACCEPT_COMMANDS`), and a higher ``seq`` is visible already.
    """
    row = connection.exec_driver_sql(_PROPOSE_FLOOR).one()
    return FloorCandidate(row.seq, row.xid, row.floor)


def raise_floor(connection: Connection, candidate: FloorCandidate) -> bool:
    """Raise the floor to the candidate, or to the first waiting command below it.

    Return ``False``, and change nothing, if a transaction that may have drawn a lower ``seq`` is still running. The
    connection must be the one that proposed the candidate, and commit each statement: after a crash of the server, or a
    failover, the candidate is meaningless.
    """
    if not connection.exec_driver_sql(_HAVE_ENDED, {"xid": candidate.xid}).scalar_one():
        return False
    while connection.exec_driver_sql(_RAISE_FLOOR, {"seq": candidate.seq, "span": SPAN_PER_RAISE}).rowcount:
        pass
    return True
