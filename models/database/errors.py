"""Classify database errors that a retry may resolve, and explain errors that only an operator can resolve."""

from __future__ import annotations

import re
from typing import Final

import psycopg
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

TRANSIENT_CLASSES: Final = ("08", "53", "57P")
"""SQLSTATE prefixes of transient errors: connection, resources, operator intervention (restart, shutdown)."""

LOCK_NOT_AVAILABLE: Final = "55P03"
"""The SQLSTATE of a statement that has waited for a lock longer than ``lock_timeout``."""

CONTENTION_STATES: Final = frozenset({"40001", "40P01", LOCK_NOT_AVAILABLE})
"""SQLSTATEs of errors that another transaction causes: serialization failure, deadlock, lock timeout."""

STATEMENT_CANCELLED: Final = "57014"
"""The SQLSTATE of a statement that was cancelled, usually by the statement timeout."""

IDLE_TRANSACTION: Final = "25P03"
"""The SQLSTATE of a session that was ended because its transaction was idle for too long."""

NO_SCHEMA: Final = "the database has no schema: run `tocsin migrate`"

_UNDEFINED_TABLE: Final = "42P01"

# libpq does not report an SQLSTATE for a failed connection attempt, so the message text is matched. Errors that are not
# listed here, such as "the database system is starting up" or "too many clients already", may be temporary.
_LOGIN_REFUSED: Final = re.compile(
    r"authentication failed|no password supplied|no pg_hba\.conf entry|pg_hba\.conf rejects"
    r"|(?:role|database) \".*\" does not exist|is not permitted to log in|permission denied for database"
    r"|no such (?:user|database)"  # PgBouncer
)


def is_transient(error: BaseException) -> bool:
    """Return whether a retry may succeed, for example after a timeout, a connection error or a deadlock."""
    if isinstance(error, PoolTimeout):
        return True
    if isinstance(error, DBAPIError):
        if error.connection_invalidated:
            return True
        state = sqlstate(error)
        if state is None:
            return isinstance(error, (OperationalError, InterfaceError))
        if is_contention(error) or is_timeout(error):
            return True
        return state == IDLE_TRANSACTION or state.startswith(TRANSIENT_CLASSES)
    return isinstance(error, (psycopg.OperationalError, ConnectionError, TimeoutError))


def is_contention(error: BaseException) -> bool:
    """Return whether the error was caused by another transaction, which held or wanted the same rows or locks."""
    return isinstance(error, DBAPIError) and sqlstate(error) in CONTENTION_STATES


def is_timeout(error: BaseException) -> bool:
    """Return whether a statement was cancelled because it took too long."""
    return isinstance(error, DBAPIError) and sqlstate(error) == STATEMENT_CANCELLED


def sqlstate(error: DBAPIError) -> str | None:
    """Return the SQLSTATE of a database error, or ``None`` if the server did not send one."""
    return getattr(error.orig, "sqlstate", None)


def explain_unusable_database(error: DBAPIError) -> str | None:
    """Explain a refused login, an unknown database or a missing schema. Return ``None`` for any other error."""
    if sqlstate(error) == _UNDEFINED_TABLE:
        return NO_SCHEMA
    if isinstance(error, OperationalError):
        for line in str(error.orig).splitlines():
            if _LOGIN_REFUSED.search(line):
                return f"the database refuses the login ({line.rpartition('FATAL:')[2].strip()}): correct DATABASE_URL"
    return None
