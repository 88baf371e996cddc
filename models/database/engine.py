"""Synchronous engines.

An entry point creates its engine after forking and passes it down.
"""

from __future__ import annotations

import select
import time
from typing import Any, Final

import psycopg
from sqlalchemy import create_engine, event
from sqlalchemy.engine import Engine
from sqlalchemy.exc import InvalidatePoolError

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

GENERIC_PLANS: Final = {"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off"}
"""PostgreSQL settings with which a prepared statement is planned once per connection, not at each execution.

For most statements, planning for the actual parameters takes longer than executing, and gives the same plan. A plan is
kept until the statistics change, so it must not depend on the size of a table that was empty when it was made: hence
no sequential scans where an index can be used. See docs/decisions/0035-economy.md.
"""

TRUSTED_SECONDS: Final = 5.0
"""How many seconds a connection may be idle in the pool before it is tried with a round trip when it is used again."""


def make_engine(url: str, *, application: str, timeouts: dict[str, str] | None = None, pool_size: int = 4) -> Engine:
    """Create a synchronous engine whose sessions use UTC. Call this function after forking.

    ``application`` names the connections in ``pg_stat_activity``. ``timeouts`` maps PostgreSQL settings, among them
    :data:`GENERIC_PLANS`, to values.
    """
    options = "".join(f" -c {name}={value}" for name, value in (timeouts or {}).items())
    engine = create_engine(
        url,
        pool_size=pool_size,
        connect_args={
            "connect_timeout": 3,
            **KEEPALIVES,
            "application_name": application,
            "options": f"-c timezone=UTC{options}",
        },
    )
    _check_connections(engine)
    return engine


def _check_connections(engine: Engine) -> None:
    """Replace connections of the pool that the server has closed, when they are about to be used.

    A server, a pooler or an administrator that ends a session closes its socket, which shows without a round trip. Only
    a connection that was lost silently does not show, so one that was idle for long is tried. SQLAlchemy's
    ``pool_pre_ping`` would try every connection, which costs as much as a short statement.
    """

    def note_idle(_connection: psycopg.Connection[Any], record: Any) -> None:
        record.info[_IDLE_SINCE] = time.monotonic()

    def check(connection: psycopg.Connection[Any], record: Any, _proxy: Any) -> None:
        idle_seconds = time.monotonic() - record.info.get(_IDLE_SINCE, 0.0)
        try:
            if idle_seconds > TRUSTED_SECONDS or _has_unread_input(connection):
                # What is unread may also be a notice, which the trial reads.
                engine.dialect.do_ping(connection)  # type: ignore[arg-type]
        except psycopg.Error as error:
            # The pool closes its older connections as well, and opens new ones.
            raise InvalidatePoolError from error

    event.listen(engine, "connect", note_idle)
    event.listen(engine, "checkin", note_idle)
    event.listen(engine, "checkout", check)


_IDLE_SINCE: Final = "idle_since"


def _has_unread_input(connection: psycopg.Connection[Any]) -> bool:
    """Return whether the server has sent something unasked, or has closed the connection."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))
