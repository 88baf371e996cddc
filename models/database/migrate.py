"""Migrate the schema to head. This is safe from several hosts at once, and while tocsin is running.

Alembic is imported only when there is something to migrate: importing it takes longer than finding out.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import OperationalError

from models.database.errors import LOCK_NOT_AVAILABLE, sqlstate
from models.database.grants import grant_to_existing_roles

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATIONS: Final = Path(__file__).parent.parent / "migrations"

LOCK_TIMEOUT_MILLISECONDS: Final = 500
"""How long a migration may wait for a table lock. The limit is short because other statements on the table queue behind
the migration, and the gateway must accept a command within 0.9 s."""

RETRY_LIMIT_SECONDS: Final = 60.0
"""How long a migration that cannot get a table lock is retried."""

RETRY_PAUSE_SECONDS: Final = 1.0
"""The pause before each retry, during which other statements can get the lock."""

SCHEMA_LOCK_POLL_SECONDS: Final = 0.2

log = structlog.get_logger(__name__)


def head_revision() -> str:
    """Return the schema revision that this release expects."""
    return known_revisions()[0]


@cache
def known_revisions() -> list[str]:
    """Return every schema revision that this release knows, newest first."""
    # A file's name begins with its revision, which is a number, and each migration follows the one before it.
    names = (MIGRATIONS / "versions").glob("[0-9]*.py")
    return sorted((name.stem.partition("_")[0] for name in names), reverse=True)


def current_revision(engine: Engine) -> str | None:
    """Return the database's schema revision, or ``None`` if the database is empty."""
    with engine.connect() as connection:
        return revision_of(connection)


def revision_of(connection: Connection) -> str | None:
    """Return the schema revision that the transaction sees, or ``None`` if the database is empty."""
    if connection.exec_driver_sql("SELECT to_regclass('alembic_version')").scalar_one() is None:
        return None
    found: str | None = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one_or_none()
    return found


def migrate(engine: Engine) -> tuple[str | None, str]:
    """Migrate the schema to head, and return the revisions before and after.

    Concurrent calls wait for one another. Each migration is committed separately.

    :raises sqlalchemy.exc.OperationalError: when a table stays locked for a minute. Earlier migrations remain applied.
    """
    with schema_lock(engine), engine.connect() as connection:
        before = revision_of(connection)
        connection.rollback()
        if before != head_revision():
            _retry_while_locked(connection, partial(upgrade_to, connection, "head"))
        _retry_while_locked(connection, partial(grant_to_existing_roles, connection))
        with connection.begin():
            _reset_transaction_ids(connection)
        return before, head_revision()


def create_schema(connection: Connection, revision: str) -> None:
    """Create a revision's schema in the caller's transaction, without building indexes concurrently."""

    def drop_concurrently(
        _c: object, _cursor: object, statement: str, parameters: object, *_rest: object
    ) -> tuple[str, object]:
        # The tables are empty and invisible to other transactions, so building indexes concurrently would not help.
        return statement.replace("INDEX CONCURRENTLY ", "INDEX "), parameters

    event.listen(connection, "before_cursor_execute", drop_concurrently, retval=True)
    try:
        upgrade_to(connection, revision, in_one_transaction=True)
    finally:
        event.remove(connection, "before_cursor_execute", drop_concurrently)


def upgrade_to(connection: Connection, revision: str, *, in_one_transaction: bool = False) -> None:
    """Run the migrations up to a revision, either each in its own transaction or all in the caller's."""
    from alembic import command

    config = _config()
    config.attributes.update(connection=connection, in_one_transaction=in_one_transaction)
    command.upgrade(config, revision)


@contextlib.contextmanager
def schema_lock(engine: Engine, *, shared: bool = False) -> Iterator[None]:
    """Hold the schema lock. Hold it exclusively to change the schema, or ``shared`` to prevent changes by others."""
    function = "pg_try_advisory_xact_lock_shared" if shared else "pg_try_advisory_xact_lock"
    with engine.connect() as lock:
        # The lock is polled, because a waiting statement would hold a snapshot, and CREATE INDEX CONCURRENTLY waits for
        # every snapshot. A separate transaction holds the lock until the caller's transaction has been committed.
        while not lock.exec_driver_sql(f"SELECT {function}(hashtextextended('migrate', 0))").scalar_one():
            lock.rollback()
            time.sleep(SCHEMA_LOCK_POLL_SECONDS)
        yield


def _retry_while_locked(connection: Connection, change: Callable[[], None]) -> None:
    """Change the schema and commit, again and again if a table stays locked for longer than other statements may wait.

    Restores, which may wait for locks indefinitely, do not call this function.
    """
    connection.exec_driver_sql(f"SET lock_timeout = {LOCK_TIMEOUT_MILLISECONDS}")
    connection.commit()
    deadline = time.monotonic() + RETRY_LIMIT_SECONDS
    while True:
        try:
            change()
            connection.commit()
            break
        except OperationalError as error:
            connection.rollback()
            if sqlstate(error) != LOCK_NOT_AVAILABLE or time.monotonic() > deadline:
                raise
            log.info("migrate.table_locked", retry_in_seconds=RETRY_PAUSE_SECONDS)
            time.sleep(RETRY_PAUSE_SECONDS)
    connection.exec_driver_sql("RESET lock_timeout")
    connection.commit()


_WRITTEN_LATER: Final = "written_by >= pg_snapshot_xmax(pg_current_snapshot())"


def _reset_transaction_ids(connection: Connection) -> None:
    """Replace transaction ids that this server has not reached yet with the current one.

    Such ids occur after a backup from another server was restored.
    """
    for table in ("events", "notifications"):
        newest = f"SELECT {_WRITTEN_LATER} FROM {table} ORDER BY id DESC LIMIT 1"  # noqa: S608 - our own tables
        if connection.exec_driver_sql(newest).scalar():
            connection.exec_driver_sql(
                f"UPDATE {table} SET written_by = DEFAULT, written_after = DEFAULT WHERE {_WRITTEN_LATER}"  # noqa: S608
            )


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config
