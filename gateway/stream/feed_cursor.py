"""The cursor over live events: a snapshot, and the database session in which it was taken."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import NewType

from sqlalchemy.ext.asyncio import AsyncConnection

Snapshot = NewType("Snapshot", str)
"""A snapshot: the set of transactions that are visible at one moment, as the text of a PostgreSQL ``pg_snapshot``."""


@dataclass(slots=True)
class FeedCursor:
    """A position in the live feed: everything that is visible in ``snapshot`` has been read.

    A server that recovers from a crash, or a replica that is promoted, assigns transaction ids again that an earlier
    snapshot counts as seen. Neither happens during a session, so the cursor is valid only as long as its session. It
    holds one connection for that long, and it must be discarded after any error.
    """

    connection: AsyncConnection
    snapshot: Snapshot

    async def close(self) -> None:
        """Close the session, whatever its state. Its connection does not return to the pool."""
        with suppress(Exception):
            await self.connection.invalidate()
        with suppress(Exception):
            await self.connection.close()
