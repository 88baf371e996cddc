"""Bringing the schema to head, safely from many hosts at once."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.engine import Connection, Engine


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def head() -> str:
    """The revision that this release expects."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    if revision is None:  # pragma: no cover - the wheel always carries revisions
        raise LookupError("no migrations are packaged")
    return revision


def current(engine: Engine) -> str | None:
    """The revision that the database stands at; ``None`` for an empty one."""
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def migrate(engine: Engine) -> tuple[str | None, str]:
    """Bring the schema to head and say from which revision to which; others who try at once wait, then find it done."""
    with engine.connect() as lock, engine.connect() as connection:
        # Held by a transaction of its own until the migrations have committed.
        lock.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('migrate', 0))"))
        before = MigrationContext.configure(connection).get_current_revision()
        connection.rollback()
        if before != head():
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
        _number_anew(connection)
        return before, head()


_AHEAD = "written_by >= pg_snapshot_xmax(pg_current_snapshot())"


def _number_anew(connection: Connection) -> None:
    """Rows of a restored database bear numbers that this server has yet to reach: they get numbers of its own."""
    for table in ("events", "notifications"):
        newest = text(f"SELECT {_AHEAD} FROM {table} ORDER BY id DESC LIMIT 1")  # noqa: S608
        if connection.execute(newest).scalar():
            connection.execute(
                text(f"UPDATE {table} SET written_by = DEFAULT, written_after = DEFAULT WHERE {_AHEAD}")  # noqa: S608
            )
    connection.commit()
