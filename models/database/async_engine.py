"""Asynchronous engines for the gateway.

This module is separate because SQLAlchemy's asyncio extension imports the whole ORM.
"""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine


def make_async_engine(
    url: str, *, application: str, pool_size: int, pool_timeout: float, custom_plans: bool = False
) -> AsyncEngine:
    """Create an asynchronous engine whose sessions use UTC. ``pool_timeout`` is in seconds.

    If ``custom_plans`` is true, PostgreSQL plans each execution for its actual parameters, because for some statements
    a generic plan would be slow with certain parameters.
    """
    plans = " -c plan_cache_mode=force_custom_plan" if custom_plans else ""
    return create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=pool_timeout,
        connect_args={
            "connect_timeout": max(1, int(pool_timeout)),
            "application_name": application,
            "options": f"-c timezone=UTC -c statement_timeout=10s{plans}",
        },
    )
