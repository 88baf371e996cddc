"""What waits in the ledger, asked for those who see to it that it does not wait too long.

Each question looks at a bounded number of rows, however many wait.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sqlalchemy.engine import Connection

from models.enums import Lane

# From head to head of the lines, a look into the index each: the rows behind a head cost nothing.
_FORGOTTEN: Final = """
WITH RECURSIVE heads AS (
    (SELECT c.subject, c.lane, coalesce(c.next_attempt_at, c.accepted_at + make_interval(secs => %(older)s)) AS due
     FROM commands c WHERE c.state = 'accepted' AND c.subject > %(after)s ORDER BY c.subject, c.seq LIMIT 1)
    UNION ALL
    SELECT next.* FROM heads CROSS JOIN LATERAL (
        SELECT c.subject, c.lane, coalesce(c.next_attempt_at, c.accepted_at + make_interval(secs => %(older)s)) AS due
        FROM commands c WHERE c.state = 'accepted' AND c.subject > heads.subject ORDER BY c.subject, c.seq LIMIT 1
    ) AS next
)
SELECT lane, subject, due < clock_timestamp() AS is_forgotten FROM heads LIMIT %(most)s
"""


class OverdueSubjects(NamedTuple):
    """Subjects that need a hint, each with its lane, and the subject to go on after: '' when all have been seen."""

    subjects: list[tuple[Lane, str]]
    after: str


def find_overdue_subjects(
    connection: Connection, *, older_than: float, after: str = "", most: int = 2000
) -> OverdueSubjects:
    """Subjects whose first command has waited ``older_than`` seconds, or whose back-off is over: they need a hint.

    It looks at the next ``most`` subjects in the order of their names, however many commands wait on them.
    """
    rows = connection.exec_driver_sql(_FORGOTTEN, {"older": older_than, "after": after, "most": most}).all()
    subjects = [(Lane(row.lane), row.subject) for row in rows if row.is_forgotten]
    return OverdueSubjects(subjects, rows[-1].subject if len(rows) == most else "")


# Of each line in the oldest rows the head. Whether somebody has it in hand is read, not tried: a lock taken here for
# a moment would turn away a worker that comes for it.
_WAITING_LANES: Final = """
SELECT DISTINCT head.lane FROM (
    SELECT DISTINCT ON (oldest.subject) oldest.* FROM (
        SELECT c.subject, c.lane, c.seq, coalesce(c.next_attempt_at, c.accepted_at) AS due
        FROM commands c WHERE c.state = 'accepted' ORDER BY c.seq LIMIT %(window)s
    ) AS oldest ORDER BY oldest.subject, oldest.seq
) AS head
WHERE head.due < clock_timestamp() - make_interval(secs => %(older)s)
AND hashtextextended('apply:' || head.subject, 0) NOT IN (
    SELECT l.classid::bigint << 32 | l.objid::bigint FROM pg_locks l
    WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
)
"""


def find_stalled_lanes(connection: Connection, *, older_than: float, window: int = 1000) -> set[Lane]:
    """The lanes of commands that have been due for ``older_than`` seconds and that nobody has in hand."""
    rows = connection.exec_driver_sql(_WAITING_LANES, {"older": older_than, "window": window})
    return {Lane(lane) for lane in rows.scalars()}
