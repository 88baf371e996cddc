"""Functions that write a batch's changes to chat destinations."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import delete, insert, update
from sqlalchemy.engine import Connection

from models.base import insert_rows
from models.notifications.chat_destination import (
    DESTINATION_FIELDS,
    ChatDestination,
    NewTestMessage,
    chat_destinations,
)
from models.notifications.delivery import deliveries
from workers.batch.changes import ChatChanges


def write_chat_destinations(connection: Connection, changes: ChatChanges) -> None:
    """Write the changes to chat destinations. Tenants change them rarely, so each one has a statement of its own."""
    # First, because a name may be given to another destination.
    if changes.deleted:
        connection.execute(delete(chat_destinations).where(chat_destinations.c.id.in_(changes.deleted)))
    for destination in changes.updated.values():
        connection.execute(
            update(chat_destinations).where(chat_destinations.c.id == destination.id).values(_values(destination))
        )
    if changes.created:
        connection.execute(insert(chat_destinations), [_values(each) for each in changes.created.values()])
    insert_rows(connection, deliveries, NewTestMessage._fields, changes.tests)


def _values(destination: ChatDestination) -> dict[str, Any]:
    values = {name: getattr(destination, name) for name in DESTINATION_FIELDS}
    plain = {name: value.value if isinstance(value, StrEnum) else value for name, value in values.items()}
    return plain | {"events": list(destination.events), "name_key": destination.name_key}
