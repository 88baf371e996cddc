"""The sign of life of a process that sends deliveries: an advisory lock that its own session holds."""

from __future__ import annotations

import time
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from models.base import new_id

CHECK_SECONDS: Final = 1.0
"""How long the lock counts as held after a check. Much shorter than the lease of claims whose process has no lock."""


class Presence:
    """The name under which a process claims deliveries, and the session that shows that the process is alive.

    If the session is lost, the name is given up: its claims may be taken over, and a new name is taken.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._connection: AsyncConnection | None = None
        self._checked_at = 0.0
        self.name: UUID = new_id()

    async def ensure(self) -> bool:
        """Make sure that the lock is held, or was a moment ago. Return whether it had to be taken, under a new name.

        :raises Exception: if the database is unavailable.
        """
        now = time.monotonic()
        if self._connection is not None:
            if now - self._checked_at < CHECK_SECONDS:
                return False
            try:
                await self._connection.exec_driver_sql("SELECT 1")
            except Exception:
                await self.close()
            else:
                self._checked_at = now
                return False
        self.name = new_id()
        connection = await self._engine.connect()
        self._connection = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await self._connection.exec_driver_sql(
            "SELECT pg_advisory_lock(hashtextextended('deliver:' || %(name)s, 0))", {"name": str(self.name)}
        )
        self._checked_at = now
        return True

    async def close(self) -> None:
        """End the session, which releases the lock."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            # The pool would keep the session, and with it the lock.
            await connection.invalidate()
            await connection.close()
