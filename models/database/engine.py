"""Synchronous engines, and the classification of transient database errors.

An entry point creates its engine after forking and passes it down.
"""

from __future__ import annotations

from typing import Final

import psycopg
from sqlalchemy import create_engine
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

WORKER_TIMEOUTS: Final = {
    "statement_timeout": "5s",
    "lock_timeout": "3s",
    "idle_in_transaction_session_timeout": "10s",
}
"""PostgreSQL settings that limit how long a worker's statements and transactions may take."""

KEEPALIVES: Final = {
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}
"""libpq parameters that detect a silently dropped connection within about 10 s instead of hours."""

TRANSIENT_CLASSES: Final = ("08", "53", "57P")
"""SQLSTATE prefixes of transient errors: connection, resources, operator intervention (restart, shutdown)."""

TRANSIENT_STATES: Final = frozenset({"40001", "40P01", "55P03", "57014"})
"""SQLSTATEs of transient errors: serialization failure, deadlock, lock timeout, statement timeout."""


def make_engine(url: str, *, application: str, timeouts: dict[str, str] | None = None, pool_size: int = 4) -> Engine:
    """Create a synchronous engine whose sessions use UTC. Call this function after forking.

    ``application`` names the connections in ``pg_stat_activity``. ``timeouts`` maps PostgreSQL settings to values.
    """
    options = "".join(f" -c {name}={value}" for name, value in (timeouts or {}).items())
    return create_engine(
        url,
        pool_pre_ping=True,
        pool_size=pool_size,
        connect_args={
            "connect_timeout": 3,
            **KEEPALIVES,
            "application_name": application,
            "options": f"-c timezone=UTC{options}",
        },
    )


def is_transient(error: BaseException) -> bool:
    """Return whether a retry may succeed, as it may after a connection error, a timeout or a serialization failure."""
    if isinstance(error, PoolTimeout):
        return True
    if isinstance(error, DBAPIError):
        if error.connection_invalidated:
            return True
        state = sqlstate(error)
        if state is None:
            return isinstance(error, (OperationalError, InterfaceError))
        return state in TRANSIENT_STATES or state.startswith(TRANSIENT_CLASSES)
    return isinstance(error, (psycopg.OperationalError, ConnectionError, TimeoutError))


def sqlstate(error: DBAPIError) -> str | None:
    """Return the SQLSTATE of a database error, or ``None`` if the server did not send one."""
    return getattr(error.orig, "sqlstate", None)
