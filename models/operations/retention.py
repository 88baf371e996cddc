"""Retention: what is deleted when it is old enough, and what is kept whatever its age.

Commands that have ended go, with the record of their failures; so do events that have been announced and planned, with
their decisions, deliveries that have ended, with their attempts, and inbox items that have been read. Accepted and dead
commands stay, and so does the last event of each subject, because the next one takes its number from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy.engine import Connection

from models.enums import CommandState
from models.operations.series import first_id

DEFAULT_KEEP_DAYS: Final = 90

ROWS_PER_STEP: Final = 5_000

SHORTEST: Final = timedelta(hours=50)
"""A command is kept at least for this long, because its idempotency key is kept for 48 hours."""


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NO_ID: Final = UUID(int=0)
_AFTER_TIME: Final = " AND finished_at >= %(after_0)s AND (finished_at, id) > (%(after_0)s, %(after_1)s)"


class _Rows(NamedTuple):
    """Rows of one table: the order in which they are read, which of them are old, and what is deleted with them.

    ``key`` are the columns by which they are read, and ``oldest`` is below all of their values.
    """

    name: str
    key: tuple[str, ...]
    oldest: tuple[Any, ...]
    source: str
    condition: str
    deletions: tuple[str, ...]


_ROWS: Final = (
    _Rows(
        "commands",
        ("finished_at", "id"),
        (_EPOCH, _NO_ID),
        "SELECT id, state, finished_at FROM commands WHERE finished_at < %(cutoff)s" + _AFTER_TIME,  # noqa: S608 - our own condition
        f"state IN ('{CommandState.APPLIED}', '{CommandState.REJECTED}', '{CommandState.DISCARDED}')",
        (
            "DELETE FROM command_failures f USING old WHERE f.command_id = old.id",
            "DELETE FROM requeued_commands r USING old WHERE r.command_id = old.id",
            "DELETE FROM commands c USING old WHERE c.id = old.id",
        ),
    ),
    _Rows(
        "events",
        ("id",),
        (_NO_ID,),
        "SELECT id, organization_id, subject, sequence, activity_id, announced_at, planned_at FROM events"
        " WHERE id < %(cutoff_id)s AND id > %(after_0)s",
        "announced_at IS NOT NULL AND planned_at IS NOT NULL AND EXISTS ("
        " SELECT FROM events later WHERE later.subject = part.subject AND later.organization_id = part.organization_id"
        " AND later.sequence > part.sequence)",
        (
            """DELETE FROM notification_decisions d USING old
                WHERE d.activity_id = old.activity_id AND d.event_id = old.id""",
            "DELETE FROM events e USING old WHERE e.id = old.id",
        ),
    ),
    _Rows(
        "deliveries",
        ("finished_at", "id"),
        (_EPOCH, _NO_ID),
        "SELECT id, finished_at FROM deliveries WHERE finished_at < %(cutoff)s" + _AFTER_TIME,  # noqa: S608 - our own condition
        "true",
        (
            "DELETE FROM delivery_attempts a USING old WHERE a.delivery_id = old.id",
            "DELETE FROM deliveries d USING old WHERE d.id = old.id AND d.finished_at IS NOT NULL",
        ),
    ),
    _Rows(
        "notifications",
        ("id",),
        (0,),
        "SELECT id, date_read FROM notifications WHERE date_created < %(cutoff)s AND id > %(after_0)s",
        "date_read < %(cutoff)s",
        ("DELETE FROM notifications n USING old WHERE n.id = old.id AND n.date_read IS NOT NULL",),
    ),
)


def _statement(rows: _Rows, *, dry_run: bool) -> str:
    deletions = "".join(
        f", deletion_{number} AS ({deletion})" for number, deletion in enumerate(() if dry_run else rows.deletions)
    )
    key = ", ".join(rows.key)
    last = ", ".join(f"last.{column}" for column in rows.key)
    return f"""
WITH part AS MATERIALIZED ({rows.source} ORDER BY {key} LIMIT %(most)s),
old AS MATERIALIZED (SELECT * FROM part WHERE {rows.condition}){deletions}
SELECT (SELECT count(*) FROM part) AS read, (SELECT count(*) FROM old) AS old, {last}
FROM (SELECT) AS one
LEFT JOIN (SELECT {key} FROM part ORDER BY {key.replace(",", " DESC,")} DESC LIMIT 1) AS last ON true
"""  # noqa: S608 - our own statements


@dataclass(slots=True)
class RetentionPass:
    """One pass over all old rows, in steps of which each is a transaction of the caller.

    ``deleted`` counts the rows of each table, without those that go with them; with ``dry_run``, those that would go.
    """

    keep_days: int
    dry_run: bool = False
    rows_per_step: int = ROWS_PER_STEP
    deleted: dict[str, int] = field(default_factory=lambda: {rows.name: 0 for rows in _ROWS})
    _table: int = field(default=0, init=False)
    _after: tuple[Any, ...] | None = field(default=None, init=False)

    def step(self, connection: Connection) -> bool:
        """Delete the next part of the old rows, and return whether there may be more."""
        if self.keep_days <= 0 or self._table >= len(_ROWS):
            return False
        rows = _ROWS[self._table]
        age = max(timedelta(days=self.keep_days), SHORTEST)
        cutoff = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one() - age
        parameters = {
            "cutoff": cutoff,
            "cutoff_id": first_id(cutoff),
            "most": self.rows_per_step,
        }
        parameters |= {f"after_{number}": value for number, value in enumerate(self._after or rows.oldest)}
        found = connection.exec_driver_sql(_statement(rows, dry_run=self.dry_run), parameters).one()
        self.deleted[rows.name] += found.old
        self._after = tuple(getattr(found, column) for column in rows.key)
        if found.read < self.rows_per_step:
            self._table, self._after = self._table + 1, None
        return self._table < len(_ROWS)
