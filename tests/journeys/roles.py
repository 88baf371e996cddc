"""Connections with the login of one process."""

from __future__ import annotations

from sqlalchemy import create_engine
from sqlalchemy.engine import Engine, make_url
from sqlalchemy.pool import NullPool


def engine_of(url: str) -> Engine:
    """Return an engine for a DATABASE_URL, without a pool."""
    return create_engine(make_url(url).set(drivername="postgresql+psycopg"), poolclass=NullPool)
