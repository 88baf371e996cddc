"""Queries for commands that have been waiting too long in the ledger.

Each query reads a bounded number of rows, however many commands are waiting.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sqlalchemy.engine import Connection

from models.enums import Lane
from models.messaging.claims import FROM_FLOOR, HEAD, scan_for_subjects, scan_on
from models.messaging.command_ledger import IS_DEFERRED, IS_WAITING
from models.messaging.hold import is_held

SCANS_PER_SWEEP: Final = 50
"""How often a sweep continues the scan of a lane at most, as long as it finds nothing."""


# Reads the first command of each subject that a scan has found, because the scan may have begun after it.
_OVERDUE: Final = f"""
SELECT head.lane, head.subject
FROM unnest(%(subjects)s::text[]) AS s(subject) {HEAD}
WHERE coalesce(head.next_attempt_at, head.accepted_at + make_interval(secs => %(older)s)) < clock_timestamp()
    AND NOT {is_held("head")}
"""  # noqa: S608 - our own condition

_RETRIES: Final = f"""
SELECT c.lane, c.subject FROM commands c
WHERE c.{IS_WAITING} AND c.{IS_DEFERRED} AND c.next_attempt_at < clock_timestamp() AND NOT {is_held("c")}
ORDER BY c.next_attempt_at LIMIT %(most)s
"""  # noqa: S608 - our own condition


class LedgerState(NamedTuple):
    """What a sweep has to do: whether any command is waiting, and whether the floor can be raised."""

    is_waiting: bool
    is_above_floor: bool


IDLE: Final = LedgerState(is_waiting=False, is_above_floor=False)

_LEDGER_STATE: Final = f"""
SELECT EXISTS (
           SELECT FROM unnest(%(lanes)s::text[]) AS l(lane) CROSS JOIN LATERAL (
               SELECT c.seq FROM commands c WHERE c.lane = l.lane AND {FROM_FLOOR} ORDER BY c.lane, c.seq LIMIT 1
           ) AS first
       ) AS is_waiting,
       (SELECT coalesce(max(seq), 0) FROM commands) >= (SELECT coalesce(max(seq), 0) FROM command_floor)
           AS is_above_floor
"""  # noqa: S608 - our own condition


def ledger_state(connection: Connection) -> LedgerState:
    """Return whether any command is waiting, and whether the ledger has any that is not below the floor."""
    row = connection.exec_driver_sql(_LEDGER_STATE, {"lanes": [lane.value for lane in Lane]}).one()
    return LedgerState(row.is_waiting, row.is_above_floor)


class OverdueSubjects(NamedTuple):
    """The subjects that need a hint, each with its lane. ``after`` is where the next scan continues, as in ``Scan``."""

    subjects: list[tuple[Lane, str]]
    after: int


def find_overdue_subjects(
    connection: Connection, lane: Lane, *, older_than: float, after: int = 0, rows: int = 10_000, span: int = 50_000
) -> OverdueSubjects:
    """Scan a lane's next waiting commands, and return the subjects that need a hint.

    A subject needs a hint if its first command has waited ``older_than`` seconds, or if its retry is due, unless it is
    held.
    """
    scans = scan_for_subjects(connection, {lane: after}, rows=rows, span=span)
    scan = scan_on(connection, scans, most=SCANS_PER_SWEEP, rows=rows, span=span)[lane]
    found = connection.exec_driver_sql(_OVERDUE, {"subjects": scan.subjects, "older": older_than})
    return OverdueSubjects([(Lane(row.lane), row.subject) for row in found], scan.after)


def find_due_retries(connection: Connection, *, most: int = 1000) -> list[tuple[Lane, str]]:
    """Return the subjects, each with its lane, of the ``most`` commands whose next attempt has been due for longest."""
    # A newer release may have more lanes, which its own relays and workers serve.
    lanes = {lane.value: lane for lane in Lane}
    rows = connection.exec_driver_sql(_RETRIES, {"most": most})
    return [(lanes[row.lane], row.subject) for row in rows if row.lane in lanes]


# Reads pg_locks instead of trying the locks: even a briefly held lock would keep a worker from claiming the subject.
_STALLED_LANES: Final = f"""
SELECT DISTINCT head.lane FROM (
    SELECT DISTINCT ON (oldest.subject) oldest.*
    FROM unnest(%(lanes)s::text[]) AS l(lane) CROSS JOIN LATERAL (
        SELECT c.subject, c.lane, c.seq, coalesce(c.next_attempt_at, c.accepted_at) AS due,
               {is_held("c")} AS is_held
        FROM commands c WHERE c.lane = l.lane AND {FROM_FLOOR} ORDER BY c.lane, c.seq LIMIT %(window)s
    ) AS oldest ORDER BY oldest.subject, oldest.seq
) AS head
WHERE head.due < clock_timestamp() - make_interval(secs => %(older)s) AND NOT head.is_held
AND hashtextextended('apply:' || head.subject, 0) NOT IN (
    SELECT l.classid::bigint << 32 | l.objid::bigint FROM pg_locks l
    WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
)
"""  # noqa: S608 - our own condition


def find_stalled_lanes(connection: Connection, *, older_than: float, window: int = 1000) -> set[Lane]:
    """Return the lanes with a subject that no worker has locked, although it has been due for ``older_than`` seconds.

    Only the oldest ``window`` waiting commands of each lane are considered. A subject whose first command is held is
    not stalled.
    """
    parameters = {"older": older_than, "window": window, "lanes": [lane.value for lane in Lane]}
    rows = connection.exec_driver_sql(_STALLED_LANES, parameters)
    return {Lane(row.lane) for row in rows}
