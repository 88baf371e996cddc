"""Tickets that log an operator in on a browser: signed links, valid for ten minutes, that work once.

A ticket names an operators' token, by its id. Whoever has the link gets a session with the rights of that token.
"""

from __future__ import annotations

import secrets as random
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Final, NamedTuple

from sqlalchemy import func
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection

from models.notifications.tickets import ExpiredTicket, InvalidTicket, used_tickets
from models.secrets import ExpiredSignature, InvalidSignature, TimedSigner

MAX_AGE_SECONDS: Final = 10 * 60


class LoginClaims(NamedTuple):
    """What a ticket says: its own id, and the id of the token."""

    id: str
    token_id: int


class LoginTickets:
    """Issues and reads tickets."""

    def __init__(self, secrets: tuple[str, ...], *, clock: Callable[[], float] = time.time) -> None:
        """Derive the keys. ``secrets`` comes from ``TOCSIN_SECRET``; ``clock`` returns the time in seconds."""
        self._signer = TimedSigner(secrets, "ops login ticket", max_age_seconds=MAX_AGE_SECONDS, clock=clock)

    def issue(self, token_id: int) -> str:
        """Return a new ticket for an operators' token."""
        return self._signer.sign([random.token_urlsafe(12), token_id])

    def read(self, ticket: str) -> LoginClaims:
        """Return what a ticket says.

        :raises InvalidTicket: if it is not a login ticket of this tocsin.
        :raises ExpiredTicket: if it is too old.
        """
        try:
            return LoginClaims(*self._signer.read(ticket))
        except ExpiredSignature:
            raise ExpiredTicket from None
        except InvalidSignature:
            raise InvalidTicket from None


def use_login_ticket(connection: Connection, claims: LoginClaims) -> bool:
    """Record that a ticket is used, and return whether this is the first time."""
    # It is read with a tolerance for clocks, so it is kept longer than it is valid.
    expires_at = func.clock_timestamp() + timedelta(seconds=2 * MAX_AGE_SECONDS)
    recorded = insert(used_tickets).values(id=claims.id, expires_at=expires_at).on_conflict_do_nothing()
    return connection.execute(recorded.returning(used_tickets.c.id)).first() is not None
