"""The gateway's engines; apart from the synchronous engine, since SQLAlchemy's asyncio imports its whole ORM."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine


def make_async_engine(
    url: str, *, application: str, pool_size: int, pool_timeout: float, custom_plans: bool = False
) -> AsyncEngine:
    """An asynchronous engine for the gateway; ``pool_timeout`` is in seconds.

    ``plans_anew`` has every statement planned for its own parameters: one plan for all would be slow for some.
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
