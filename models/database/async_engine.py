"""Asynchronous engines for the gateway.

This module is separate because SQLAlchemy's asyncio extension imports the whole ORM.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from models.database.engine import KEEPALIVES

GATEWAY_TIMEOUTS: Final = {
    "statement_timeout": "10s",
    "lock_timeout": "3s",
    "idle_in_transaction_session_timeout": "2s",
}
"""PostgreSQL settings that limit how long a gateway's statements and transactions may take.

The last one lets the server end the open transactions of a gateway whose host is lost, and release their locks.
"""

CUSTOM_PLANS: Final = {"plan_cache_mode": "force_custom_plan"}
"""PostgreSQL settings with which each execution is planned for its actual parameters, because for some statements a
generic plan would be slow with certain parameters."""


def make_async_engine(
    url: str,
    *,
    application: str,
    pool_size: int,
    pool_timeout: float,
    lock_timeout: str = GATEWAY_TIMEOUTS["lock_timeout"],
    plans: dict[str, str] | None = None,
) -> AsyncEngine:
    """Create an asynchronous engine whose sessions use UTC. ``pool_timeout`` is in seconds.

    ``lock_timeout`` replaces the value in :data:`GATEWAY_TIMEOUTS`. ``plans`` are :data:`CUSTOM_PLANS`, or
    :data:`~models.database.engine.GENERIC_PLANS`, or nothing to leave the choice to PostgreSQL.
    """
    settings = GATEWAY_TIMEOUTS | {"lock_timeout": lock_timeout} | (plans or {})
    options = "".join(f" -c {name}={value}" for name, value in settings.items())
    return create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=pool_timeout,
        connect_args={
            "connect_timeout": max(1, int(pool_timeout)),
            **KEEPALIVES,
            "application_name": application,
            "options": f"-c timezone=UTC{options}",
        },
    )
