"""The cancellation of a command that its caller no longer wants and that no worker has begun to apply."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.ledger.acceptance import HintSink
from gateway.unavailable import unavailable_if_transient
from models.enums import Lane
from models.messaging.claims import CANCEL_COMMAND


class CommandCanceller:
    """Cancels waiting commands."""

    def __init__(self, engine: AsyncEngine, hints: HintSink) -> None:
        # A single statement needs no explicit transaction.
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._hints = hints

    async def cancel(self, id_: UUID) -> bool:
        """Discard a command that is waiting and whose subject no worker has locked. Return whether it was discarded.

        :raises Unavailable: if the database does not respond. The command may be discarded nevertheless.
        """
        with unavailable_if_transient():
            async with self._engine.connect() as connection:
                row = (await connection.exec_driver_sql(CANCEL_COMMAND, {"id": id_})).one_or_none()
        if row is None:
            return False
        if row.lane in set(Lane):
            # Later commands with the same subject may have waited for this one.
            self._hints.publish(Lane(row.lane), [row.subject])
        return True
