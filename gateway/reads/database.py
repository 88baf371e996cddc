"""One way to read: within a time limit, once more on a broken connection, and "unavailable" for what can pass."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from models.database.engine import is_transient
from models.refusals import Refusal, Unavailable

Rows = Sequence[Any]


class QueryRunner:
    """Runs single statements; ``seconds`` is for each, the repetition included."""

    def __init__(self, engine: AsyncEngine, *, seconds: float) -> None:
        # One statement needs no transaction around it.
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._seconds = seconds

    async def rows(self, statement: str, parameters: Mapping[str, Any]) -> Rows:
        """What the statement finds.

        :raises Unavailable: the database is away, or takes too long.
        """
        try:
            async with asyncio.timeout(self._seconds):
                for attempt in (1, 2):
                    try:
                        async with self._engine.connect() as connection:
                            return (await connection.exec_driver_sql(statement, dict(parameters))).all()
                    except Exception as fault:
                        # Once more: the connection may have broken while it lay in the pool.
                        if attempt == 2 or not is_transient(fault):
                            raise
        except Refusal:
            raise
        except Exception as fault:
            if is_transient(fault):
                raise Unavailable("Temporarily unavailable; try again.") from fault
            raise
        raise AssertionError("unreachable")  # pragma: no cover
