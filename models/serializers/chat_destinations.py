"""Chat destinations as JSON."""

from __future__ import annotations

from typing import TypedDict

from models.enums import DestinationStatus
from models.json_fields import DateTime, Id
from models.notifications.chat_destination import ChatDestination
from models.timestamps import iso, iso_or_none


class ChatDestinationJson(TypedDict):
    """A chat destination. ``shownUrl`` has only the schema and the host of its URL, which is a secret.

    ``user`` is the id of the person whose own destination it is, or null.
    """

    id: Id
    name: str
    shownUrl: str
    events: list[str]
    user: Id | None
    status: DestinationStatus
    failingSince: DateTime | None
    version: int
    dateCreated: DateTime


def chat_destination_json(destination: ChatDestination) -> ChatDestinationJson:
    """Serialize a chat destination, without its URL."""
    return {
        "id": str(destination.id),
        "name": destination.name,
        "shownUrl": destination.shown,
        "events": list(destination.events),
        "user": None if destination.user_id is None else str(destination.user_id),
        "status": destination.status,
        "failingSince": iso_or_none(destination.failing_since),
        "version": destination.version,
        "dateCreated": iso(destination.date_created),
    }
