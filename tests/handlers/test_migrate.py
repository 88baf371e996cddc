"""Migrations that are started on several hosts at once, or while other processes write."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine
from sqlalchemy.engine import Engine
from sqlalchemy.pool import NullPool

from models.database.migrate import (
    MIGRATIONS,
    create_schema,
    current_revision,
    head_revision,
    known_revisions,
    migrate,
)
from tests.conftest import Database
from tests.waiting import eventually

WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'commands'::regclass"
AN_INSERT = (
    "INSERT INTO commands (id, type, subject, lane, caller, payload)"
    " VALUES (gen_random_uuid(), 'comment.post', 'incident:1:1', 'commands', 'user:1', '{}')"
)


@pytest.fixture
def empty(maintenance: Engine) -> Iterator[Engine]:
    """An empty database without tables."""
    with maintenance.connect() as connection:
        connection.exec_driver_sql("CREATE DATABASE unmigrated")
    yield create_engine(maintenance.url.set(database="unmigrated"), poolclass=NullPool)
    with maintenance.connect() as connection:
        connection.exec_driver_sql("DROP DATABASE unmigrated WITH (FORCE)")


def test_concurrent_migrations_run_once(empty: Engine) -> None:
    with ThreadPoolExecutor(6) as hosts:
        results = [each.result() for each in [hosts.submit(migrate, empty) for _ in range(6)]]

    assert sorted(results, key=str) == [(head_revision(), head_revision())] * 5 + [(None, head_revision())]


def test_the_revisions_are_those_that_alembic_finds() -> None:
    scripts = ScriptDirectory(str(MIGRATIONS))

    assert head_revision() == scripts.get_current_head()
    assert known_revisions() == [script.revision for script in scripts.walk_revisions()]


def test_an_up_to_date_schema_is_recognized_without_importing_alembic(database: Database) -> None:
    url = database.engine.url.render_as_string(hide_password=False)
    program = (
        "import sys; from models.database.engine import make_engine; from models.database.migrate import migrate;"
        f" print(*migrate(make_engine({url!r}, application='test')), 'alembic' in sys.modules)"
    )

    printed = subprocess.check_output([sys.executable, "-c", program], text=True)

    assert printed.split() == [head_revision(), head_revision(), "False"]


def test_a_command_that_logs_json_does_not_import_rich(database: Database) -> None:
    program = "import sys; from workers import cli; cli._run(['migrate']); print('rich' in sys.modules)"
    environment = {**os.environ, "DATABASE_URL": database.url}

    printed = subprocess.check_output([sys.executable, "-c", program], env=environment, text=True)

    assert printed.splitlines()[-1] == "False"


def test_a_migration_waiting_for_a_table_lock_does_not_block_writers(empty: Engine) -> None:
    with empty.begin() as connection:
        create_schema(connection, "0001")

    with ThreadPoolExecutor(1) as host, empty.connect() as reader, empty.connect() as writer:
        reader.exec_driver_sql("SELECT * FROM commands")
        migration = host.submit(migrate, empty)
        eventually(lambda: writer.exec_driver_sql(WAITING).scalar_one())
        writer.rollback()
        writer.exec_driver_sql("SET statement_timeout = '20s'")
        writer.exec_driver_sql(AN_INSERT)
        writer.commit()
        done_too_early = migration.done()
        reader.rollback()
        migration.result()

    assert not done_too_early
    assert current_revision(empty) == head_revision()
