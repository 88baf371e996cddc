"""Tickets: signed links that open one person's page about an incident, unsubscribe them, or open their inbox.

A ticket is part of a URL in a mail or a chat message. Whoever has the URL can use the ticket, so it opens no more than
the message was about, and what it opens is decided by the person's current rights. Tickets are identified, in logs and
in the table ``used_tickets``, by the id inside them, because the same ticket can be spelled in more than one way.
"""

from __future__ import annotations

import secrets as random
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sqlalchemy import Column, Index, Table, Text

from models.base import METADATA, timestamp_column
from models.secrets import ExpiredSignature, InvalidSignature, TimedSigner

used_tickets = Table(
    "used_tickets",
    METADATA,
    Column("id", Text, primary_key=True),
    timestamp_column("used_at"),
    timestamp_column("expires_at"),
)
"""The tickets that have been used and may be used only once, until they expire."""
Index("used_tickets_expires_at_idx", used_tickets.c.expires_at)


class TicketKind(StrEnum):
    """What a ticket is for."""

    PAGE = "page"
    UNSUBSCRIBE = "unsubscribe"
    INBOX = "inbox"


_DAY: Final = 24 * 60 * 60
MAX_AGE_SECONDS: Final[dict[TicketKind, int]] = {
    TicketKind.PAGE: 30 * _DAY,
    # People unsubscribe from old mails, too.
    TicketKind.UNSUBSCRIBE: 400 * _DAY,
    TicketKind.INBOX: 30 * _DAY,
}
"""How long a ticket of each kind is valid."""


class InvalidTicket(Exception):
    """Raised when a ticket was not signed by this tocsin, was changed, or is of another kind."""


class ExpiredTicket(Exception):
    """Raised when a ticket is no longer valid."""


@dataclass(frozen=True, slots=True)
class TicketClaims:
    """What a ticket says: its own id, the person, and the incident.

    ``incident_id`` is the id of the row, and ``identifier`` the number within the organization. The ids of a ticket for
    the inbox, which names no incident, are 0.
    """

    id: str
    kind: TicketKind
    user_id: int
    organization_id: int = 0
    incident_id: int = 0
    identifier: int = 0


class Tickets:
    """Issues and reads tickets."""

    def __init__(self, secrets: tuple[str, ...], *, clock: Callable[[], float] = time.time) -> None:
        """Derive the keys. ``secrets`` comes from ``TOCSIN_SECRET``; ``clock`` returns the time in seconds."""
        self._signers = {
            kind: TimedSigner(secrets, f"{kind} ticket", max_age_seconds=seconds, clock=clock)
            for kind, seconds in MAX_AGE_SECONDS.items()
        }

    def page_ticket(self, user_id: int, organization_id: int, incident_id: int, identifier: int) -> str:
        """Return a ticket that opens the page about an incident for a person."""
        return self._issue(TicketKind.PAGE, user_id, organization_id, incident_id, identifier)

    def unsubscribe_ticket(self, user_id: int, organization_id: int, incident_id: int, identifier: int) -> str:
        """Return a ticket that unsubscribes a person from an incident."""
        return self._issue(TicketKind.UNSUBSCRIBE, user_id, organization_id, incident_id, identifier)

    def inbox_ticket(self, user_id: int) -> str:
        """Return a ticket that opens a person's inbox in all organizations."""
        return self._issue(TicketKind.INBOX, user_id)

    def read_page_ticket(self, ticket: str) -> TicketClaims:
        """Return what a page ticket says.

        :raises InvalidTicket: if it is not a page ticket of this tocsin.
        :raises ExpiredTicket: if it is no longer valid.
        """
        return self._read(TicketKind.PAGE, ticket)

    def read_unsubscribe_ticket(self, ticket: str) -> TicketClaims:
        """Return what an unsubscribe ticket says.

        :raises InvalidTicket: if it is not an unsubscribe ticket of this tocsin.
        :raises ExpiredTicket: if it is no longer valid.
        """
        return self._read(TicketKind.UNSUBSCRIBE, ticket)

    def read_inbox_ticket(self, ticket: str) -> TicketClaims:
        """Return what an inbox ticket says.

        :raises InvalidTicket: if it is not an inbox ticket of this tocsin.
        :raises ExpiredTicket: if it is no longer valid.
        """
        return self._read(TicketKind.INBOX, ticket)

    def _issue(self, kind: TicketKind, user_id: int, *incident: int) -> str:
        return self._signers[kind].sign([random.token_urlsafe(12), user_id, *incident])

    def _read(self, kind: TicketKind, ticket: str) -> TicketClaims:
        try:
            claims = self._signers[kind].read(ticket)
        except ExpiredSignature:
            raise ExpiredTicket from None
        except InvalidSignature:
            raise InvalidTicket from None
        return TicketClaims(claims[0], kind, *claims[1:])
