"""Functions that load the facts about people's inboxes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from itertools import pairwise
from typing import Final

from sqlalchemy.engine import Connection

from models.enums import IncidentStatus
from models.incidents.incident import Incident
from models.types import MAX_ID
from tasks.commands.fields import dedup_reference
from workers.batch.fact_request import InboxRequest
from workers.batch.inbox_facts import Inbox, UnreadItems, UnreadRange

_NAMED: Final = """
SELECT n.user_id, n.organization_id, n.id
FROM unnest(%(users)s::bigint[], %(organizations)s::bigint[], %(ids)s::bigint[]) AS w(user_id, organization_id, id)
JOIN notifications n ON n.id = w.id AND n.user_id = w.user_id AND n.organization_id = w.organization_id
WHERE n.date_read IS NULL AND NOT n.retracted
"""

_ABOUT_INCIDENTS: Final = """
SELECT n.user_id, n.organization_id, n.incident_id, n.id
FROM unnest(%(users)s::bigint[], %(organizations)s::bigint[], %(incidents)s::bigint[])
    AS w(user_id, organization_id, incident_id)
JOIN notifications n ON n.user_id = w.user_id AND n.organization_id = w.organization_id
    AND n.incident_id = w.incident_id
WHERE n.date_read IS NULL AND NOT n.retracted
"""

# Counts along the index of unread items, because a person may have hundreds of thousands of them.
_RANGES: Final = """
SELECT w.user_id, w.organization_id, w.up_to, found.unread, found.last_id
FROM unnest(%(users)s::bigint[], %(organizations)s::bigint[], %(after)s::bigint[], %(up_to)s::bigint[])
    AS w(user_id, organization_id, after, up_to)
CROSS JOIN LATERAL (
    SELECT count(*) AS unread, coalesce(max(n.id), 0) AS last_id
    FROM notifications n
    WHERE n.user_id = w.user_id AND n.organization_id = w.organization_id AND n.date_read IS NULL
        AND NOT n.retracted AND n.id > w.after AND n.id <= w.up_to
) AS found
"""


def load_unread(
    connection: Connection, requests: Collection[InboxRequest], incidents: Collection[Incident]
) -> dict[Inbox, UnreadItems]:
    """Load the facts about the unread items that the requests select, by inbox. Retracted items are not unread.

    ``incidents`` contains the incidents to which the requests refer, as far as they exist.
    """
    named = _load_named(connection, requests)
    ranges = _load_ranges(connection, requests)
    about = _load_about_incidents(connection, requests, incidents)
    return {
        inbox: UnreadItems(named[inbox], ranges[inbox], about[inbox])
        for inbox in {request.inbox for request in requests}
    }


def _load_named(connection: Connection, requests: Collection[InboxRequest]) -> dict[Inbox, list[int]]:
    named: dict[Inbox, list[int]] = defaultdict(list)
    wanted = {(*request.inbox, id_) for request in requests for id_ in request.ids if 0 < id_ <= MAX_ID}
    if wanted:
        users, organizations, ids = (list(column) for column in zip(*wanted, strict=True))
        rows = connection.exec_driver_sql(_NAMED, {"users": users, "organizations": organizations, "ids": ids})
        for row in rows:
            named[row.user_id, row.organization_id].append(row.id)
    return named


def _load_about_incidents(
    connection: Connection, requests: Collection[InboxRequest], incidents: Collection[Incident]
) -> dict[Inbox, dict[int, list[int]]]:
    about: dict[Inbox, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    ids = {(each.organization_id, str(each.identifier)): each.id for each in incidents}
    ids |= {
        (each.organization_id, dedup_reference(each.dedup_key)): each.id
        for each in incidents
        if each.dedup_key is not None and each.status is not IncidentStatus.CLOSED
    }
    found = ((each.inbox, ids.get((each.organization_id, each.incident or ""))) for each in requests)
    wanted = {(*inbox, id_) for inbox, id_ in found if id_ is not None}
    if wanted:
        names = ("users", "organizations", "incidents")
        columns = dict(zip(names, map(list, zip(*wanted, strict=True)), strict=True))
        for row in connection.exec_driver_sql(_ABOUT_INCIDENTS, columns):
            about[row.user_id, row.organization_id][row.incident_id].append(row.id)
    return about


def _load_ranges(connection: Connection, requests: Collection[InboxRequest]) -> dict[Inbox, list[UnreadRange]]:
    ends: dict[Inbox, set[int]] = defaultdict(set)
    for request in requests:
        if request.up_to > 0:
            ends[request.inbox].add(min(request.up_to, MAX_ID))
    wanted = [(*inbox, after, up_to) for inbox, each in ends.items() for after, up_to in pairwise((0, *sorted(each)))]
    ranges: dict[Inbox, list[UnreadRange]] = defaultdict(list)
    if wanted:
        names = ("users", "organizations", "after", "up_to")
        columns = dict(zip(names, map(list, zip(*wanted, strict=True)), strict=True))
        for row in connection.exec_driver_sql(_RANGES, columns):
            ranges[row.user_id, row.organization_id].append(UnreadRange(row.up_to, row.unread, row.last_id))
    return ranges
