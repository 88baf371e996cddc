"""Queries for commands that have been waiting too long in the ledger.

Each query reads a bounded number of rows, however many commands are waiting.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sqlalchemy.engine import Connection

from models.enums import Lane
from models.messaging.command_ledger import IS_WAITING

# Reads only the first waiting command of each subject, with one index lookup. The commands behind it add no cost.
_OVERDUE_SUBJECTS: Final = f"""
WITH RECURSIVE heads AS (
    (SELECT c.subject, c.lane, coalesce(c.next_attempt_at, c.accepted_at + make_interval(secs => %(older)s)) AS due
     FROM commands c WHERE c.{IS_WAITING} AND c.subject > %(after)s ORDER BY c.subject, c.seq LIMIT 1)
    UNION ALL
    SELECT next.* FROM heads CROSS JOIN LATERAL (
        SELECT c.subject, c.lane, coalesce(c.next_attempt_at, c.accepted_at + make_interval(secs => %(older)s)) AS due
        FROM commands c WHERE c.{IS_WAITING} AND c.subject > heads.subject ORDER BY c.subject, c.seq LIMIT 1
    ) AS next
)
SELECT lane, subject, due < clock_timestamp() AS is_overdue FROM heads LIMIT %(most)s
"""  # noqa: S608 - our own condition


class OverdueSubjects(NamedTuple):
    """The subjects that need a hint, each with its lane.

    ``after`` is the subject after which the next search continues, or ``""`` if there are no more subjects.
    """

    subjects: list[tuple[Lane, str]]
    after: str


def find_overdue_subjects(
    connection: Connection, *, older_than: float, after: str = "", most: int = 2000
) -> OverdueSubjects:
    """Check the next ``most`` subjects after ``after``, in alphabetical order, and return those that need a hint.

    A subject needs a hint if its first command has waited ``older_than`` seconds, or if its retry is due.
    """
    rows = connection.exec_driver_sql(_OVERDUE_SUBJECTS, {"older": older_than, "after": after, "most": most}).all()
    subjects = [(Lane(row.lane), row.subject) for row in rows if row.is_overdue]
    return OverdueSubjects(subjects, rows[-1].subject if len(rows) == most else "")


# Reads pg_locks instead of trying the locks: even a briefly held lock would keep a worker from claiming the subject.
_STALLED_LANES: Final = f"""
SELECT DISTINCT head.lane FROM (
    SELECT DISTINCT ON (oldest.subject) oldest.* FROM (
        SELECT c.subject, c.lane, c.seq, coalesce(c.next_attempt_at, c.accepted_at) AS due
        FROM commands c WHERE c.{IS_WAITING} ORDER BY c.seq LIMIT %(window)s
    ) AS oldest ORDER BY oldest.subject, oldest.seq
) AS head
WHERE head.due < clock_timestamp() - make_interval(secs => %(older)s)
AND hashtextextended('apply:' || head.subject, 0) NOT IN (
    SELECT l.classid::bigint << 32 | l.objid::bigint FROM pg_locks l
    WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
)
"""  # noqa: S608 - our own condition


def find_stalled_lanes(connection: Connection, *, older_than: float, window: int = 1000) -> set[Lane]:
    """Return the lanes with a subject that no worker has locked, although it has been due for ``older_than`` seconds.

    Only the oldest ``window`` waiting commands are considered.
    """
    rows = connection.exec_driver_sql(_STALLED_LANES, {"older": older_than, "window": window})
    return {Lane(row.lane) for row in rows}
