"""What there is to tell on a stream, read from the tables: events of incidents, and new items of inboxes.

Rows commit in another order than they are written in, so no id and no time can say how far a reader has come. A
snapshot can: what is new is what is visible now and was not visible then. It misses nothing that commits late, and
within an incident it keeps the order, because workers take an incident's lock before their transaction writes, and
a transaction has its number from its first write. See docs/decisions/0006-following-by-snapshot.md.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple, NewType
from uuid import UUID

import orjson
from sqlalchemy.ext.asyncio import AsyncEngine

from models.directory.policy_facts import PROJECT_COLUMNS, project_facts
from models.enums import JSON
from models.policy import ProjectFacts
from models.serializers import notification_json
from tasks.events import NotificationCreated, cloud_event

Snapshot = NewType("Snapshot", str)
"""What was visible at a moment, as the server writes it (``pg_snapshot``)."""

KEPT_HOURS: Final = 24
"""How far back a stream can be taken up again."""

PAGE: Final = 500


class Place(NamedTuple):
    """The place of a row among all: its transaction, and its own place in that."""

    written_by: int
    subject: str
    sequence: int


class Resumption(NamedTuple):
    """Where a reader goes on: nothing below ``from_transaction`` is owed, nor what came with ``last`` before it."""

    from_transaction: int
    last: Place | None


class Item(NamedTuple):
    """One thing to tell. ``person`` is whose inbox item it is; events have none. ``frame`` goes out as it is."""

    organization: int
    incident: int
    person: int | None
    frame: bytes


class News(NamedTuple):
    """What became visible since a snapshot, and the snapshot to ask with next."""

    until: Snapshot
    items: list[Item]
    is_too_much: bool


_EVENTS: Final = """
SELECT e.written_by, e.subject, e.sequence, e.organization_id, e.incident_id, e.id, e.type, e.body::text AS body,
       NULL::bigint AS number, NULL::bigint AS person
FROM events e WHERE e.incident_id IS NOT NULL"""

_ITEMS: Final = """
SELECT n.written_by, 'notifications/' || n.id AS subject, 1::bigint AS sequence, n.organization_id, n.incident_id,
       NULL::uuid AS id, NULL::text AS type, NULL::text AS body, n.id AS number, n.user_id AS person
FROM notifications n WHERE"""

_YOUNG: Final = f"date_created > clock_timestamp() - interval '{KEPT_HOURS} hours'"

_IS_NEW: Final = f"""organization_id = ANY(%(organizations)s::bigint[])
    AND written_by >= pg_snapshot_xmin(%(since)s::pg_snapshot)
    AND written_by < pg_snapshot_xmax(pg_current_snapshot())
    AND NOT pg_visible_in_snapshot(written_by, %(since)s::pg_snapshot) AND {_YOUNG}"""

_SINCE: Final = f"""
SELECT pg_current_snapshot()::text AS until, news.*
FROM (SELECT 1) AS always LEFT JOIN LATERAL (
    {_EVENTS} AND {_IS_NEW}
    UNION ALL
    {_ITEMS} user_id = ANY(%(people)s::bigint[]) AND {_IS_NEW}
) AS news ON true
ORDER BY news.written_by, news.subject, news.sequence
LIMIT %(most)s
"""  # noqa: S608 - our own words

# What was visible in the snapshot is final: pages of it stay what they are while others write.
_IS_OWED: Final = f"""organization_id = %(organization)s AND written_by >= %(from)s::text::xid8
    AND pg_visible_in_snapshot(written_by, %(until)s::pg_snapshot) AND {_YOUNG}
    AND (%(incident)s::bigint IS NULL OR incident_id = %(incident)s)"""


def _page_of(rows: str) -> str:
    return f"""(
    SELECT owed.* FROM ({rows} {_IS_OWED}) AS owed
    WHERE (owed.written_by, owed.subject, owed.sequence) > (%(by)s::text::xid8, %(subject)s, %(sequence)s)
        AND NOT (owed.written_by = %(last_by)s::text::xid8
                 AND (owed.subject, owed.sequence) <= (%(last_subject)s, %(last_sequence)s))
    ORDER BY owed.written_by, owed.subject, owed.sequence LIMIT {PAGE}
)"""  # noqa: S608 - our own words


# Each kind by its own index and no further than a page, then the two together.
_PAGE: Final = f"""
{_page_of(f"{_EVENTS} AND")} UNION ALL {_page_of(f"{_ITEMS} user_id = %(person)s AND")}
ORDER BY written_by, subject, sequence LIMIT {PAGE}
"""

# A number that the snapshot does not reach is another server's: the database was restored from there.
_LAST: Final = """
SELECT last.* FROM (
    SELECT written_after, written_by, subject, sequence FROM events
    WHERE id = %(id)s AND organization_id = %(organization)s
    UNION ALL
    SELECT written_after, written_by, 'notifications/' || id, 1 FROM notifications
    WHERE id = %(number)s AND organization_id = %(organization)s AND user_id = %(person)s
) AS last WHERE pg_visible_in_snapshot(last.written_by, %(until)s::pg_snapshot)
"""

# Ids begin with the time, so the first event of the last day is one step in an index.
_HORIZON: Final = "SELECT written_after FROM events WHERE id >= %(oldest)s ORDER BY id LIMIT 1"

_INBOX_ITEMS: Final = """
SELECT n.id, n.reason, n.event_id, n.event_type, n.activity_id, n.retracted, n.date_created, n.date_read,
       i.id AS incident, i.identifier, i.title, i.status, i.version, o.slug,
       a.type AS activity_type, a.value, a.previous_value, a.comment
FROM notifications n
JOIN organizations o ON o.id = n.organization_id
JOIN incidents i ON i.id = n.incident_id
LEFT JOIN incident_activities a ON a.id = n.activity_id
WHERE n.id = ANY(%(numbers)s::bigint[])
"""

_PROJECTS: Final = f"""
SELECT ip.incident_id AS incident, {PROJECT_COLUMNS}
FROM incident_projects ip JOIN projects p ON p.id = ip.project_id
WHERE ip.incident_id = ANY(%(incidents)s::bigint[])
"""  # noqa: S608 - our own columns


class EventFeed:
    """Reads what is to be told; faults of the database come out as they are."""

    def __init__(self, engine: AsyncEngine) -> None:
        # Each statement is a transaction of its own, hence sees by a snapshot of its own.
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")

    async def now(self) -> Snapshot:
        """What is visible now."""
        return Snapshot((await self._rows("SELECT pg_current_snapshot()::text", {}))[0][0])

    async def read_since(
        self, since: Snapshot, organizations: Collection[int], people: Collection[int], *, most: int
    ) -> News:
        """What became visible in these organizations, in order; of inboxes those of these people.

        More than ``most`` rows are not handed out, only said to be too much.
        """
        parameters = {"since": since, "organizations": list(organizations), "people": list(people), "most": most + 1}
        rows = await self._rows(_SINCE, parameters)
        is_too_much = len(rows) > most
        told = [] if is_too_much else [row for row in rows if row.written_by is not None]
        return News(Snapshot(rows[0].until), await self._items(told), is_too_much)

    async def resumption(
        self, id_: UUID | None, organization: int, person: int | None, *, until: Snapshot
    ) -> Resumption:
        """Where a reader goes on whose last item was this one: at the latest a day ago, also after an unknown one."""
        lowest = _lowest_unfinished(until)
        horizon = await self._rows(_HORIZON, {"oldest": _oldest_id()})
        oldest = int(horizon[0].written_after) if horizon else lowest
        if id_ is None:
            return Resumption(oldest, None)
        if id_.version == _BEGINNING:
            begun = _number_of(id_)
            # A number that lies ahead is another server's, as in _LAST.
            return Resumption(max(oldest, begun) if begun <= lowest else oldest, None)
        parameters = {"id": id_, "number": _number_of(id_), "organization": organization, "person": person}
        found = await self._rows(_LAST, parameters | {"until": until})
        if not found:
            return Resumption(oldest, None)
        last = found[0]
        place = Place(int(last.written_by), last.subject, last.sequence)
        return Resumption(max(oldest, int(last.written_after)), place)

    async def owed(
        self,
        resumption: Resumption,
        after: Place | None,
        organization: int,
        person: int | None,
        incident: int | None,
        *,
        until: Snapshot,
    ) -> tuple[list[Item], Place | None]:
        """A page of what was visible in a snapshot, after a place; and the place to go on, unless it was the last."""
        begin, last = after or Place(0, "", 0), resumption.last or Place(0, "", 0)
        rows = await self._rows(
            _PAGE,
            {
                "organization": organization,
                "person": person,
                "incident": incident,
                "until": until,
                "from": str(resumption.from_transaction),
                "by": str(begin.written_by),
                "subject": begin.subject,
                "sequence": begin.sequence,
                "last_by": str(last.written_by),
                "last_subject": last.subject,
                "last_sequence": last.sequence,
            },
        )
        end = Place(int(rows[-1].written_by), rows[-1].subject, rows[-1].sequence) if len(rows) == PAGE else None
        return await self._items(rows), end

    async def projects(self, incidents: Collection[int]) -> dict[int, list[ProjectFacts]]:
        """The projects of incidents, as the policy asks for them."""
        facts: dict[int, list[ProjectFacts]] = {incident: [] for incident in incidents}
        for row in await self._rows(_PROJECTS, {"incidents": list(incidents)}) if incidents else ():
            facts[row.incident].append(project_facts(row))
        return facts

    async def _items(self, rows: Sequence[Any]) -> list[Item]:
        numbers = [row.number for row in rows if row.number is not None]
        inbox = {}
        if numbers:
            inbox = {row.id: row for row in await self._rows(_INBOX_ITEMS, {"numbers": numbers})}
        items = []
        for row in rows:
            if row.number is None:
                frame = _frame(str(row.id), row.type, row.body)
            elif row.number in inbox:
                frame = _notification_frame(inbox[row.number])
            else:
                continue  # its incident is gone by now
            items.append(Item(row.organization_id, row.incident_id, row.person, frame))
        return items

    async def _rows(self, statement: str, parameters: dict[str, Any]) -> Sequence[Any]:
        async with self._engine.connect() as connection:
            return (await connection.exec_driver_sql(statement, parameters)).all()


def _frame(id_: str, type_: str, body: str) -> bytes:
    return f"id: {id_}\nevent: {type_}\ndata: {body}\n\n".encode()


def _notification_frame(row: Any) -> bytes:
    event = NotificationCreated(notification_json(row))
    id_ = notification_event_id(row.id, row.date_created)
    incident: dict[str, JSON] = {
        "id": str(row.incident),
        "identifier": str(row.identifier),
        "title": row.title,
        "status": row.status,
        "version": row.version,
    }
    body = cloud_event(
        event,
        id=id_,
        organization=row.slug,
        subject=f"notifications/{row.id}",
        sequence=1,
        time=row.date_created,
        data={"incident": incident, "actor": {"type": "system", "id": None, "name": "tocsin"}, "command": None},
    )
    return _frame(str(id_), event.type, orjson.dumps(body).decode())


# --- ids that begin with the time ------------------------------------------------------------------------------

_NUMBER_BITS: Final = (1 << 62) - 1


_BEGINNING: Final = 8
"""The version of ids that are of no event: they say where a stream began."""


def beginning_id(begun: Snapshot) -> UUID:
    """An id to come back with for a reader who has heard nothing yet since this snapshot."""
    return UUID(int=_BEGINNING << 76 | 0b10 << 62 | _lowest_unfinished(begun))


def _lowest_unfinished(snapshot: Snapshot) -> int:
    return int(snapshot.partition(":")[0])


def notification_event_id(number: int, created: datetime) -> UUID:
    """The id of the event that tells of an inbox item: a uuid7 with the item's number where others are random."""
    milliseconds = int(created.timestamp() * 1000)
    return UUID(int=milliseconds << 80 | 7 << 76 | 0b10 << 62 | number)


def _number_of(id_: UUID) -> int:
    return id_.int & _NUMBER_BITS


def _oldest_id() -> UUID:
    return UUID(int=int((time.time() - KEPT_HOURS * 3600) * 1000) << 80)
