"""Synchronous engines.

An entry point creates its engine after forking and passes it down.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import create_engine
from sqlalchemy.engine import Engine

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
