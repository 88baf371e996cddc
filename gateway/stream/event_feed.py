"""The feed from which streams are served: incident events and inbox items, read from their tables.

Rows may become visible in a different order than they were written, so neither an id nor a timestamp can record how
far a reader has got. A snapshot can, as long as the session in which it was taken: a row is new if it is visible now
but was not visible in that snapshot, so rows that are committed late are not missed. Across sessions, the id of the
last event that a reader received can, because its row names the transactions that had ended when it was written. Order
within an incident is preserved, because a worker locks the incident before it writes, and a transaction is assigned its
id at its first write. See docs/decisions/0006-snapshot-cursors-for-streams.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy import Executable
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.reads.database import Rows, fetch_all
from gateway.stream.feed_cursor import FeedCursor, Snapshot
from gateway.stream.frames import event_frame, notification_event_id, notification_frame, notification_number
from models.directory.policy_facts import project_from_row
from models.incidents.queries import PROJECTS_OF_INCIDENTS
from models.policy import ProjectFacts

NO_EVENT: Final = UUID(int=0)
"""The id with which a client resumes that opened its stream before the organization had any event."""

REPLAY_HOURS: Final = 24
"""The maximum age of the events that a resumed stream replays."""

PAGE_SIZE: Final = 500


class Position(NamedTuple):
    """A row's position in the feed, which is ordered by transaction, then by subject, then by sequence number."""

    written_by: int
    subject: str
    sequence: int


class Resumption(NamedTuple):
    """The start of a replay.

    The replay begins with the transaction ``from_transaction``. If ``last`` is given, that row is skipped, and so are
    the rows before it in the same transaction.
    """

    from_transaction: int
    last: Position | None


class FeedItem(NamedTuple):
    """An event or an inbox item. ``user_id`` is the item's owner, or ``None`` for an event.

    ``frame`` takes the start of the gateway's URLs for the stream's caller, and returns the frame to send.
    """

    organization: int
    incident: int
    user_id: int | None
    frame: Callable[[str], bytes]


class FeedBatch(NamedTuple):
    """The items that have become visible since a snapshot, and the snapshot from which to continue.

    ``is_truncated`` means that there were more rows than the limit. In that case, ``items`` is empty.
    """

    until: Snapshot
    items: list[FeedItem]
    is_truncated: bool


_EVENTS: Final = """
SELECT e.written_by, e.subject, e.sequence, e.organization_id, e.incident_id, e.id, e.type, e.body::text AS body,
       NULL::bigint AS number, NULL::bigint AS user_id
FROM events e WHERE e.incident_id IS NOT NULL"""

_ITEMS: Final = """
SELECT n.written_by, 'notifications/' || n.id AS subject, 1::bigint AS sequence, n.organization_id, n.incident_id,
       NULL::uuid AS id, NULL::text AS type, NULL::text AS body, n.id AS number, n.user_id
FROM notifications n WHERE"""

_IS_RECENT: Final = f"date_created > clock_timestamp() - interval '{REPLAY_HOURS} hours'"

_IS_NEW: Final = f"""organization_id = ANY(%(organizations)s::bigint[])
    AND written_by >= pg_snapshot_xmin(%(since)s::pg_snapshot)
    AND written_by < pg_snapshot_xmax(pg_current_snapshot())
    AND NOT pg_visible_in_snapshot(written_by, %(since)s::pg_snapshot) AND {_IS_RECENT}"""

_SINCE: Final = f"""
SELECT pg_current_snapshot()::text AS until, new.*
FROM (SELECT 1) AS always LEFT JOIN LATERAL (
    {_EVENTS} AND {_IS_NEW}
    UNION ALL
    {_ITEMS} user_id = ANY(%(users)s::bigint[]) AND {_IS_NEW}
) AS new ON true
ORDER BY new.written_by, new.subject, new.sequence
LIMIT %(limit)s
"""  # noqa: S608 - our own words

# The set of rows that are visible in a snapshot never changes, so its pages are stable while others write.
_IS_MISSED: Final = f"""organization_id = %(organization)s AND written_by >= %(from)s::text::xid8
    AND pg_visible_in_snapshot(written_by, %(until)s::pg_snapshot) AND {_IS_RECENT}
    AND (%(incident)s::bigint IS NULL OR incident_id = %(incident)s)"""


def _page_of(rows: str) -> str:
    return f"""(
    SELECT missed.* FROM ({rows} {_IS_MISSED}) AS missed
    WHERE (missed.written_by, missed.subject, missed.sequence) > (%(by)s::text::xid8, %(subject)s, %(sequence)s)
        AND NOT (missed.written_by = %(last_by)s::text::xid8
                 AND (missed.subject, missed.sequence) <= (%(last_subject)s, %(last_sequence)s))
    ORDER BY missed.written_by, missed.subject, missed.sequence LIMIT {PAGE_SIZE}
)"""  # noqa: S608 - our own words


# At most a page of each kind is read, along the kind's own index. Then the two are merged.
_PAGE: Final = f"""
{_page_of(f"{_EVENTS} AND")} UNION ALL {_page_of(f"{_ITEMS} user_id = %(user)s AND")}
ORDER BY written_by, subject, sequence LIMIT {PAGE_SIZE}
"""

# A transaction id beyond the snapshot comes from another server, of which this database is a restored backup.
_LAST: Final = """
SELECT last.* FROM (
    SELECT written_after, written_by, subject, sequence, NULL::timestamptz AS date_created FROM events
    WHERE id = %(id)s AND organization_id = %(organization)s
    UNION ALL
    SELECT written_after, written_by, 'notifications/' || id, 1, date_created FROM notifications
    WHERE id = %(number)s AND organization_id = %(organization)s AND user_id = %(user)s
) AS last WHERE pg_visible_in_snapshot(last.written_by, %(until)s::pg_snapshot)
"""

_LATEST: Final = """
SELECT id FROM events
WHERE organization_id = %(organization)s AND pg_visible_in_snapshot(written_by, %(until)s::pg_snapshot)
ORDER BY written_by DESC, subject DESC, sequence DESC LIMIT 1
"""

# Ids start with the time, so one index access finds the first event from the last day.
_HORIZON: Final = "SELECT written_after FROM events WHERE id >= %(oldest)s ORDER BY id LIMIT 1"

_INBOX_ITEMS: Final = """
SELECT n.id, n.reason, n.event_id, n.event_type, n.activity_id, n.retracted, n.date_created, n.date_read,
       i.id AS incident, i.identifier, i.title, i.status, i.version, o.slug,
       a.type AS activity_type, a.value, a.previous_value, a.comment, u.id AS author_id, u.name AS author_name
FROM notifications n
JOIN organizations o ON o.id = n.organization_id
JOIN incidents i ON i.id = n.incident_id
LEFT JOIN incident_activities a ON a.id = n.activity_id
LEFT JOIN users u ON u.id = a.user_id
WHERE n.id = ANY(%(numbers)s::bigint[])
"""


class EventFeed:
    """Queries for the feed. They do not convert database errors."""

    def __init__(self, engine: AsyncEngine) -> None:
        # Each statement is a transaction of its own, and so has its own snapshot.
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")

    async def open_cursor(self) -> FeedCursor:
        """Open a session, and return a cursor that starts at its current snapshot."""
        connection = await self._engine.connect()
        try:
            rows = await fetch_all(connection, "SELECT pg_current_snapshot()::text AS snapshot")
        except BaseException:
            await connection.close()
            raise
        return FeedCursor(connection, Snapshot(rows[0].snapshot))

    async def latest_id(self, cursor: FeedCursor, organization: int) -> UUID:
        """Return the id of the organization's last event before the cursor, or ``NO_EVENT``.

        A client that resumes from it receives every event after the cursor, and some older ones again if their
        transactions overlapped the last event's.
        """
        parameters = {"organization": organization, "until": cursor.snapshot}
        rows = await fetch_all(cursor.connection, _LATEST, parameters)
        return rows[0].id if rows else NO_EVENT

    async def read_since(
        self, cursor: FeedCursor, organizations: Collection[int], users: Collection[int], *, limit: int
    ) -> FeedBatch:
        """Return the organizations' events and the users' inbox items that became visible after a cursor, in order.

        If there are more than ``limit`` rows, the batch is truncated and has no items. The cursor does not move.
        """
        parameters = {
            "since": cursor.snapshot,
            "organizations": list(organizations),
            "users": list(users),
            "limit": limit + 1,
        }
        rows = await fetch_all(cursor.connection, _SINCE, parameters)
        is_truncated = len(rows) > limit
        new = [] if is_truncated else [row for row in rows if row.written_by is not None]
        return FeedBatch(Snapshot(rows[0].until), await self._items(new), is_truncated)

    async def resumption(self, id_: UUID | None, organization: int, user: int | None, *, until: Snapshot) -> Resumption:
        """Return where a replay starts for a client whose last event had this id.

        If the id is unknown, the replay covers the last 24 hours.
        """
        horizon = await self._rows(_HORIZON, {"oldest": _oldest_id()})
        oldest = int(horizon[0].written_after) if horizon else _lowest_unfinished(until)
        if id_ is None:
            return Resumption(oldest, None)
        parameters = {"id": id_, "number": notification_number(id_), "organization": organization, "user": user}
        found = [row for row in await self._rows(_LAST, parameters | {"until": until}) if _has_id(row, id_)]
        if not found:
            return Resumption(oldest, None)
        last = found[0]
        return Resumption(max(oldest, int(last.written_after)), _position_of(last))

    async def replay(
        self,
        resumption: Resumption,
        after: Position | None,
        organization: int,
        user: int | None,
        incident: int | None,
        *,
        until: Snapshot,
    ) -> tuple[list[FeedItem], Position | None]:
        """Return a page of the items to replay, and the position after which the next page starts, if there is one.

        All items were visible in the snapshot ``until``. ``incident`` (a row id) limits the page to one incident.
        """
        start, last = after or Position(0, "", 0), resumption.last or Position(0, "", 0)
        rows = await self._rows(
            _PAGE,
            {
                "organization": organization,
                "user": user,
                "incident": incident,
                "until": until,
                "from": str(resumption.from_transaction),
                "by": str(start.written_by),
                "subject": start.subject,
                "sequence": start.sequence,
                "last_by": str(last.written_by),
                "last_subject": last.subject,
                "last_sequence": last.sequence,
            },
        )
        end = _position_of(rows[-1]) if len(rows) == PAGE_SIZE else None
        return await self._items(rows), end

    async def projects(self, incidents: Collection[int]) -> dict[int, list[ProjectFacts]]:
        """Map each incident's row id to the facts that the policy needs about the incident's projects."""
        facts: dict[int, list[ProjectFacts]] = {incident: [] for incident in incidents}
        for row in await self._rows(PROJECTS_OF_INCIDENTS, {"ids": list(incidents)}) if incidents else ():
            facts[row.incident_id].append(project_from_row(row).facts)
        return facts

    async def _items(self, rows: Rows) -> list[FeedItem]:
        numbers = [row.number for row in rows if row.number is not None]
        inbox = {}
        if numbers:
            inbox = {row.id: row for row in await self._rows(_INBOX_ITEMS, {"numbers": numbers})}
        items = []
        for row in rows:
            if row.number is None:
                frame = _same_for_everyone(event_frame(str(row.id), row.type, row.body))
            elif row.number in inbox:
                frame = partial(notification_frame, inbox[row.number])
            else:
                continue  # The incident has been deleted in the meantime.
            items.append(FeedItem(row.organization_id, row.incident_id, row.user_id, frame))
        return items

    async def _rows(self, statement: Executable | str, parameters: Mapping[str, Any] | None = None) -> Rows:
        async with self._engine.connect() as connection:
            return await fetch_all(connection, statement, parameters)


def _same_for_everyone(frame: bytes) -> Callable[[str], bytes]:
    return lambda _: frame


def _position_of(row: Any) -> Position:
    return Position(int(row.written_by), row.subject, row.sequence)


def _has_id(row: Any, id_: UUID) -> bool:
    # A server that lost its last rows gives the number of an inbox item again, to another one.
    return row.date_created is None or notification_event_id(notification_number(id_), row.date_created) == id_


def _lowest_unfinished(snapshot: Snapshot) -> int:
    return int(snapshot.partition(":")[0])


def _oldest_id() -> UUID:
    return UUID(int=int((time.time() - REPLAY_HOURS * 3600) * 1000) << 80)
