"""The execution of read-only statements, with a timeout, one retry if a connection is broken, and keyset pagination."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Executable, Select, false, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.http.pagination import Page
from gateway.unavailable import TRY_AGAIN, unavailable_if_transient
from models.database.errors import is_transient

Rows = Sequence[Any]


class QueryRunner:
    """Runs read-only statements. ``seconds`` is the timeout for each statement, including its retry."""

    def __init__(self, engine: AsyncEngine, *, seconds: float) -> None:
        # A single statement needs no explicit transaction.
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._seconds = seconds

    async def rows(self, statement: Executable | str, parameters: Mapping[str, Any] | None = None) -> Rows:
        """Run a statement (from SQLAlchemy Core, or SQL text for psycopg) and return all its rows.

        :raises Unavailable: if the database is unreachable or does not respond in time.
        """
        with unavailable_if_transient(TRY_AGAIN):
            async with asyncio.timeout(self._seconds):
                try:
                    return await self._fetch_all(statement, parameters)
                except Exception as error:
                    if not is_transient(error):
                        raise
                    # Retry once: the connection may have broken while it was idle in the pool.
                    return await self._fetch_all(statement, parameters)

    async def _fetch_all(self, statement: Executable | str, parameters: Mapping[str, Any] | None) -> Rows:
        async with self._engine.connect() as connection:
            return await fetch_all(connection, statement, parameters)


async def fetch_all(
    connection: AsyncConnection, statement: Executable | str, parameters: Mapping[str, Any] | None = None
) -> Rows:
    """Run a statement (from SQLAlchemy Core, or SQL text for psycopg) and return all its rows."""
    if isinstance(statement, str):
        return (await connection.exec_driver_sql(statement, dict(parameters or {}))).all()
    return (await connection.execute(statement, parameters)).all()


def paginate(statement: Select[Any], page: Page, *columns: ColumnElement[Any], descending: bool = False) -> Select[Any]:
    """Sort a statement's rows by the columns of the cursor's key, and limit them to the page and one more row.

    The additional row shows whether another page follows. The page before the first one is empty.
    """
    is_descending = descending != page.cursor.backwards
    order = [column.desc() if is_descending else column.asc() for column in columns]
    paged = statement.order_by(*order).limit(page.limit)
    if page.cursor.key is None:
        return paged.where(false()) if page.cursor.backwards else paged
    if is_descending:
        is_beyond = operator.le if page.cursor.includes else operator.lt
    else:
        is_beyond = operator.ge if page.cursor.includes else operator.gt
    return paged.where(is_beyond(tuple_(*columns), page.cursor.key))
