"""Engines, and which database faults can pass.

An engine is built by an entry point, after it has forked, and handed down.
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
"""What a worker's statements may take before the server ends them."""

DEAD_PEER: Final = {
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}
"""How soon a connection whose other end has silently gone counts as broken: in about 10 s, not in hours."""

PASSING_CLASSES: Final = ("08", "53", "57P")
"""SQLSTATE prefixes of faults that can pass: connection, resources, operator intervention (restart, shutdown)."""

PASSING_STATES: Final = frozenset({"40001", "40P01", "55P03", "57014"})
"""Serialization, deadlock, lock and statement timeouts."""


def make_engine(url: str, *, application: str, timeouts: dict[str, str] | None = None, pool_size: int = 4) -> Engine:
    """A synchronous engine for a worker, relay, notifier or the command line; call it after forking."""
    options = "".join(f" -c {name}={value}" for name, value in (timeouts or {}).items())
    return create_engine(
        url,
        pool_pre_ping=True,
        pool_size=pool_size,
        connect_args={
            "connect_timeout": 3,
            **DEAD_PEER,
            "application_name": application,
            "options": f"-c timezone=UTC{options}",
        },
    )


def is_transient(fault: BaseException) -> bool:
    """Whether trying again later may succeed although nothing was changed: the fault is not the command's own."""
    if isinstance(fault, PoolTimeout):
        return True
    if isinstance(fault, DBAPIError):
        if fault.connection_invalidated:
            return True
        state = sqlstate(fault)
        if state is None:
            return isinstance(fault, (OperationalError, InterfaceError))
        return state in PASSING_STATES or state.startswith(PASSING_CLASSES)
    return isinstance(fault, (psycopg.OperationalError, ConnectionError))


def sqlstate(fault: DBAPIError) -> str | None:
    """The SQLSTATE of a database fault, if the server sent one."""
    return getattr(fault.orig, "sqlstate", None)
