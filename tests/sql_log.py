"""A log of the SQL that an engine sends, for tests that count statements."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine

BEGIN = "BEGIN"


@contextmanager
def logging_sql(engine: Engine) -> Iterator[list[str]]:
    """Yield a list that gets every statement of the engine during the block, and ``BEGIN`` for each transaction."""
    sent: list[str] = []

    def on_begin(connection: Connection) -> None:
        driver: Any = connection.connection.driver_connection
        if not driver.autocommit:
            sent.append(BEGIN)

    def on_statement(_connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(" ".join(statement.split()))

    event.listen(engine, "begin", on_begin)
    event.listen(engine, "before_cursor_execute", on_statement)
    try:
        yield sent
    finally:
        event.remove(engine, "begin", on_begin)
        event.remove(engine, "before_cursor_execute", on_statement)
