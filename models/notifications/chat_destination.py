"""Chat destinations: channels of chat services to which an organization's messages are sent, and people's own.

A destination's URL is a secret as a whole. It is stored encrypted (:class:`models.secrets.SecretBox`, with the purpose
:data:`models.notifications.chat_url.URL_PURPOSE`), and never shown again: ``shown`` has only its schema and host.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy import BigInteger, Column, Index, LargeBinary, Table, Text, text

from models.base import METADATA, TextList, enum_check, foreign_key, id_column, timestamp_column
from models.enums import DestinationStatus

MAX_DESTINATIONS: Final = 100
"""The maximum number of destinations per organization, including people's own."""

DISABLED_AFTER: Final = timedelta(days=5)
"""After how long without a single success a failing destination is disabled."""

TEST_EVENT: Final = "chat_destination.test"
"""The event type of the delivery that a test makes. No event has it."""

DISABLED_EVENT: Final = "chat_destination.disabled"
"""The event type of the mails which tell people that tocsin has disabled a chat destination."""

NO_DESTINATION: Final = "no_destination"
DESTINATION_DISABLED: Final = "destination_disabled"
DESTINATION_PAUSED: Final = "destination_paused"
URL_UNREADABLE: Final = "url_unreadable"
URL_REFUSED: Final = "url_refused"
"""The rules by which a delivery to a chat destination is not sent, or not sent now."""


chat_destinations = Table(
    "chat_destinations",
    METADATA,
    id_column(),
    foreign_key("organization_id", "organizations.id"),
    Column("name", Text, nullable=False),
    # The name as :func:`name_key` returns it: names are unique by it, and rules find a destination by it.
    Column("name_key", Text, nullable=False),
    Column("url", LargeBinary, nullable=False),
    Column("shown", Text, nullable=False),
    # Patterns of event types: an exact type, a family such as `incident.*`, or `*`. Empty for a person's own
    # destination, to which only that person's notifications are sent.
    Column("events", TextList, nullable=False),
    foreign_key("user_id", "users.id", nullable=True),
    Column("status", Text, nullable=False, server_default=DestinationStatus.ACTIVE.value),
    # The first failure since the last success.
    timestamp_column("failing_since", nullable=True),
    Column("version", BigInteger, nullable=False, server_default="1"),
    # Not a foreign key: a destination outlives the person who registered it. NULL if a service did.
    Column("created_by", BigInteger, nullable=True),
    timestamp_column("date_created"),
    timestamp_column("date_modified"),
    enum_check("status", (status.value for status in DestinationStatus)),
)
Index(
    "chat_destinations_name_key",
    chat_destinations.c.organization_id,
    chat_destinations.c.name_key,
    unique=True,
)
Index(
    "chat_destinations_person_key",
    chat_destinations.c.organization_id,
    chat_destinations.c.user_id,
    unique=True,
    postgresql_where=text("user_id IS NOT NULL"),
)
Index("chat_destinations_user_id_idx", chat_destinations.c.user_id, postgresql_where=text("user_id IS NOT NULL"))
Index("chat_destinations_organization_id_idx", chat_destinations.c.organization_id, chat_destinations.c.id)


@dataclass(slots=True)
class ChatDestination:
    """A chat destination. ``url`` is encrypted."""

    id: int
    organization_id: int
    name: str
    url: bytes
    shown: str
    events: tuple[str, ...]
    user_id: int | None
    status: DestinationStatus
    failing_since: datetime | None
    version: int
    created_by: int | None
    date_created: datetime
    date_modified: datetime

    def set_status(self, status: DestinationStatus) -> None:
        """Send messages to the destination, or stop that. If it is enabled, earlier failures no longer count."""
        self.status = status
        if status is DestinationStatus.ACTIVE:
            self.failing_since = None

    @property
    def name_key(self) -> str:
        """The name as its key."""
        return name_key(self.name)

    def record_change(self, at: datetime) -> None:
        """Give the destination a new version."""
        self.version += 1
        self.date_modified = at


DESTINATION_FIELDS: Final = tuple(column.name for column in chat_destinations.c if column.name != "name_key")


def destination_from_row(row: Any) -> ChatDestination:
    """Build a chat destination from a row with all the table's columns."""
    values = {name: getattr(row, name) for name in DESTINATION_FIELDS}
    return ChatDestination(
        **values | {"events": tuple(row.events), "status": DestinationStatus(row.status), "url": bytes(row.url)}
    )


def name_key(name: str) -> str:
    """Return the key by which names are unique in an organization, and by which rules find a destination.

    >>> name_key(" On call ") == name_key("ON CALL")
    True
    """
    return " ".join(name.split()).casefold()


class NewTestMessage(NamedTuple):
    """A delivery to insert that a command makes, and not an event: a test."""

    id: UUID
    organization_id: int
    channel: str
    destination_id: int
    target_key: str
    event_id: UUID
    event_type: str
    due_at: datetime
    date_created: datetime
