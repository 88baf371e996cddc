"""Server-sent events as text, and the ids of events that are about inbox items."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final
from uuid import UUID

import orjson

from models.serializers.notifications import notification_json
from models.types import JSON
from tasks.events import NotificationCreated, cloud_event

_NUMBER_BITS: Final = (1 << 62) - 1


def event_frame(id_: str, type_: str, body: str) -> bytes:
    """Return an event with this CloudEvent as its data."""
    return f"id: {id_}\nevent: {type_}\ndata: {body}\n\n".encode()


def notification_frame(row: Any, base_url: str) -> bytes:
    """Return the event for an inbox item from its row, which also holds its incident, activity and organization.

    Links start with ``base_url``.
    """
    event = NotificationCreated(notification_json(row, f"{base_url}/organizations/{row.slug}"))
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
    return event_frame(str(id_), event.type, orjson.dumps(body).decode())


def notification_event_id(number: int, created: datetime) -> UUID:
    """Return the event id of an inbox item: a UUIDv7 with the item's number in place of the random bits."""
    milliseconds = int(created.timestamp() * 1000)
    return UUID(int=milliseconds << 80 | 7 << 76 | 0b10 << 62 | number)


def notification_number(id_: UUID) -> int:
    """Return the number of the inbox item with this event id. The result is meaningless for any other event."""
    return id_.int & _NUMBER_BITS
