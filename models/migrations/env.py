"""Run the migrations online, either each in its own transaction or all in one. The caller holds the schema lock."""

from __future__ import annotations

import contextlib

from alembic import context
from sqlalchemy import create_engine
from sqlalchemy.engine import Connection

from models.settings import DatabaseSettings
from models.tables import METADATA


def _migrate(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=METADATA, transaction_per_migration=True)
    if context.config.attributes.get("in_one_transaction"):
        context.get_context().autocommit_block = contextlib.nullcontext  # type: ignore[method-assign, assignment]
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    _migrate(given)
else:
    with create_engine(DatabaseSettings.from_environment().database_url).connect() as own:
        _migrate(own)
        own.commit()
