"""Deliveries of events to destinations that belong to an organization and not to a person, such as webhooks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final, NamedTuple

from sqlalchemy.engine import Connection

from models.base import new_id
from models.enums import Channel
from models.messaging.outbox import WaitingEvent
from models.notifications.delivery import target_key
from models.notifications.webhook import family_pattern


class Destination(NamedTuple):
    """A kind of destination: its channel, and its table.

    The table has the columns ``id``, ``organization_id``, ``status`` and ``events``, the patterns of the event types
    that are sent. It is one of :data:`models.messaging.outbox.DESTINATION_TABLES`, so that the outbox leaves the events
    of an organization with such a destination unplanned. A webhook gets the event as it is published, at once. A
    chat message is rendered when the notification window is over, so that it shows a comment as it then is.
    """

    channel: Channel
    table: str
    carries_event: bool


DESTINATIONS: Final = (
    Destination(Channel.WEBHOOK, "webhooks", carries_event=True),
    Destination(Channel.CHAT, "chat_destinations", carries_event=False),
)
"""Every kind of destination."""

# A type matches the patterns `*`, its family, and itself, so an overlap of arrays is enough.
_MATCHES: Final = """
SELECT e.id AS event_id, e.organization_id, d.id AS destination_id
FROM unnest(%(ids)s::uuid[], %(organizations)s::bigint[], %(types)s::text[], %(families)s::text[])
    WITH ORDINALITY AS e(id, organization_id, type, family, position)
JOIN {table} d ON d.organization_id = e.organization_id AND d.status = 'active'
    AND d.events && ARRAY['*', e.family, e.type]
ORDER BY e.position, d.id
"""

# The body as text, exactly as it is published. An incident may have been deleted meanwhile.
_INSERT: Final = """
INSERT INTO deliveries (id, organization_id, incident_id, activity_id, event_id, event_type, channel, destination_id,
    target_key, body, due_at)
SELECT m.id, e.organization_id, i.id, e.activity_id, e.id, e.type, %(channel)s, m.destination_id,
    m.target_key, CASE WHEN %(carries_event)s THEN convert_to(e.body::text, 'UTF8') END,
    CASE WHEN %(carries_event)s THEN clock_timestamp() ELSE greatest(clock_timestamp(), e.date_created + %(window)s) END
FROM unnest(%(ids)s::uuid[], %(events)s::uuid[], %(destinations)s::bigint[], %(target_keys)s::text[])
    WITH ORDINALITY AS m(id, event_id, destination_id, target_key, position)
JOIN events e ON e.id = m.event_id
LEFT JOIN incidents i ON i.id = e.incident_id
ORDER BY m.position
ON CONFLICT DO NOTHING
"""


def write_destination_deliveries(
    connection: Connection, events: Sequence[WaitingEvent], *, window: timedelta = timedelta(0)
) -> int:
    """Write a delivery for every event and every active destination that asks for its type, and return their number.

    An event that is planned twice is delivered once.
    """
    parameters = {
        "ids": [event.id for event in events],
        "organizations": [event.organization_id for event in events],
        "types": [event.type for event in events],
        "families": [family_pattern(event.type) for event in events],
    }
    written = 0
    for channel, table, carries_event in DESTINATIONS:
        matches = connection.exec_driver_sql(_MATCHES.format(table=table), parameters).all()
        if not matches:
            continue
        result = connection.exec_driver_sql(
            _INSERT,
            {
                "channel": channel.value,
                "carries_event": carries_event,
                "window": window,
                "ids": [new_id() for _ in matches],
                "events": [row.event_id for row in matches],
                "destinations": [row.destination_id for row in matches],
                "target_keys": [target_key(channel, row.organization_id, row.destination_id) for row in matches],
            },
        )
        written += result.rowcount
    return written
