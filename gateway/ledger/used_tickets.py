"""The record of tickets that may be used only once."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.unavailable import unavailable_if_transient
from models.notifications.tickets import MAX_AGE_SECONDS, TicketClaims, used_tickets

_MAX_PRUNED: Final = 1_000


class UsedTickets:
    """Records which tickets have been used. Rows are deleted once their tickets can no longer be valid."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def used_at(self, claims: TicketClaims) -> datetime | None:
        """Return when the ticket was used, or ``None`` if it was not.

        :raises Unavailable: if the database does not respond in time.
        """
        with unavailable_if_transient():
            async with self._engine.connect() as connection:
                statement = select(used_tickets.c.used_at).where(used_tickets.c.id == claims.id)
                found: datetime | None = (await connection.execute(statement)).scalar_one_or_none()
                return found

    async def record(self, claims: TicketClaims) -> None:
        """Record that the ticket has been used, and delete rows that are no longer needed.

        :raises Unavailable: if the database does not respond in time.
        """
        # It was issued before now, so it expires before then.
        expires_at = func.clock_timestamp() + timedelta(seconds=MAX_AGE_SECONDS[claims.kind])
        expired = select(used_tickets.c.id).where(used_tickets.c.expires_at < func.now()).limit(_MAX_PRUNED)
        with unavailable_if_transient():
            async with self._engine.begin() as connection:
                await connection.execute(
                    insert(used_tickets).values(id=claims.id, expires_at=expires_at).on_conflict_do_nothing()
                )
                await connection.execute(delete(used_tickets).where(used_tickets.c.id.in_(expired)))
