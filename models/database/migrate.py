"""Bringing the schema to head, safely from many hosts at once and with everything running."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import OperationalError

from models.database.engine import sqlstate
from models.database.grants import grant_to_existing_roles

LOCK_MILLISECONDS: Final = 500
"""How long a change of the schema may queue for a table: whoever needs that table waits behind it, and a gateway
has 0.9 s to accept a command."""

PATIENCE_SECONDS: Final = 60.0
"""How long it tries again, with a pause in which the others get through."""

PAUSE_SECONDS: Final = 1.0
ASK_AGAIN_SECONDS: Final = 0.2

_LOCK_NOT_AVAILABLE: Final = "55P03"

log = structlog.get_logger(__name__)


def head_revision() -> str:
    """The revision that this release expects."""
    revision = _scripts().get_current_head()
    if revision is None:  # pragma: no cover - the wheel always carries revisions
        raise LookupError("no migrations are packaged")
    return revision


def known_revisions() -> list[str]:
    """Every revision of this release, the newest first."""
    return [script.revision for script in _scripts().walk_revisions()]


def current_revision(engine: Engine) -> str | None:
    """The revision that the database stands at; ``None`` for an empty one."""
    with engine.connect() as connection:
        return current_of(connection)


def current_of(connection: Connection) -> str | None:
    """The revision that this transaction sees; ``None`` for an empty database."""
    return MigrationContext.configure(connection).get_current_revision()


def migrate(engine: Engine) -> tuple[str | None, str]:
    """Bring the schema to head and say from which revision to which; others who try at once wait, then find it done.

    :raises sqlalchemy.exc.OperationalError: a table was in use for a whole minute; what is done so far stays done.
    """
    with hold_schema(engine), engine.connect() as connection:
        before = current_of(connection)
        connection.rollback()
        if before != head_revision():
            _upgrade(connection)
        with connection.begin():
            grant_to_existing_roles(connection)
            _number_anew(connection)
        return before, head_revision()


def create_schema(connection: Connection, revision: str) -> None:
    """Bring an empty schema to a revision inside the caller's transaction, whatever the migrations do to avoid one."""

    def hear(_c: object, _cursor: object, statement: str, parameters: object, *_rest: object) -> tuple[str, object]:
        # On tables without rows, and seen by nobody else, it makes no difference.
        return statement.replace("INDEX CONCURRENTLY ", "INDEX "), parameters

    event.listen(connection, "before_cursor_execute", hear, retval=True)
    try:
        upgrade_to(connection, revision, in_one_transaction=True)
    finally:
        event.remove(connection, "before_cursor_execute", hear)


def upgrade_to(connection: Connection, revision: str, *, in_one_transaction: bool = False) -> None:
    """Run the migrations up to a revision, each in a transaction of its own or all in the caller's."""
    config = _config()
    config.attributes.update(connection=connection, in_one_transaction=in_one_transaction)
    command.upgrade(config, revision)


@contextlib.contextmanager
def hold_schema(engine: Engine, *, shared: bool = False) -> Iterator[None]:
    """Keep the schema for ourselves, or ``shared``: nobody changes it meanwhile."""
    function = "pg_try_advisory_xact_lock_shared" if shared else "pg_try_advisory_xact_lock"
    with engine.connect() as lock:
        # Asked for again and again: a statement that waits holds a snapshot, and CREATE INDEX CONCURRENTLY waits for
        # all of those. Held by a transaction of its own until the caller's has committed.
        while not lock.exec_driver_sql(f"SELECT {function}(hashtextextended('migrate', 0))").scalar_one():
            lock.rollback()
            time.sleep(ASK_AGAIN_SECONDS)
        yield


def _upgrade(connection: Connection) -> None:
    # Not while restoring: that may wait as long as it must.
    connection.exec_driver_sql(f"SET lock_timeout = {LOCK_MILLISECONDS}")
    connection.commit()
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            upgrade_to(connection, "head")
            connection.commit()
            break
        except OperationalError as fault:
            connection.rollback()
            if sqlstate(fault) != _LOCK_NOT_AVAILABLE or time.monotonic() > give_up_at:
                raise
            log.info("migrate.table_in_use", again_in_seconds=PAUSE_SECONDS)
            time.sleep(PAUSE_SECONDS)
    connection.exec_driver_sql("RESET lock_timeout")
    connection.commit()


_AHEAD: Final = "written_by >= pg_snapshot_xmax(pg_current_snapshot())"


def _number_anew(connection: Connection) -> None:
    """Rows of a restored database bear numbers that this server has yet to reach: they get numbers of its own."""
    for table in ("events", "notifications"):
        newest = f"SELECT {_AHEAD} FROM {table} ORDER BY id DESC LIMIT 1"  # noqa: S608 - our own tables
        if connection.exec_driver_sql(newest).scalar():
            connection.exec_driver_sql(
                f"UPDATE {table} SET written_by = DEFAULT, written_after = DEFAULT WHERE {_AHEAD}"  # noqa: S608
            )


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent.parent / "migrations"))
    return config
