"""Migrations work while the previous release is running: their statements are checked, and its tests are run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine
from sqlalchemy.engine import Engine
from sqlalchemy.pool import NullPool

from models.database.migrate import head_revision, known_revisions
from tests.project.migrations import breaches, statements_by_revision
from tests.project.releases import VERSIONS, git, migrations_of, migrations_today, unpack
from tests.project.tree import ROOT

HANDLER_TESTS = ("comments", "incidents", "subscriptions")


@pytest.fixture
def empty_database(maintenance: Engine) -> Iterator[Engine]:
    """A database without tables."""
    with maintenance.connect() as connection:
        connection.exec_driver_sql("CREATE DATABASE untouched")
    yield create_engine(maintenance.url.set(database="untouched"), poolclass=NullPool)
    with maintenance.connect() as connection:
        connection.exec_driver_sql("DROP DATABASE untouched WITH (FORCE)")


def test_no_migration_breaks_the_previous_release(empty_database: Engine) -> None:
    statements_of = statements_by_revision(empty_database)

    assert set(statements_of) == set(known_revisions())
    assert all(statements for statements in statements_of.values())
    found = [breach for revision, statements in statements_of.items() for breach in breaches(revision, statements)]
    assert found == []


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE incidents",
        "ALTER TABLE incidents DROP COLUMN title",
        "ALTER TABLE incidents RENAME TO cases",
        "ALTER TABLE incidents RENAME title TO name",
        "ALTER TABLE incidents ALTER COLUMN title TYPE VARCHAR(10)",
        "ALTER TABLE incidents ALTER COLUMN title SET NOT NULL",
        "ALTER TABLE incidents ADD COLUMN priority BIGINT NOT NULL",
        "ALTER TABLE incidents ADD CONSTRAINT c CHECK (title <> '')",
        "ALTER TABLE incidents ADD CONSTRAINT c FOREIGN KEY(a) REFERENCES users (id)",
        "ALTER TABLE incidents ADD CONSTRAINT c UNIQUE (title)",
        "CREATE UNIQUE INDEX i ON incidents (title)",
        "CREATE INDEX i ON incidents (title)",
        "TRUNCATE incidents",
        "CREATE OR REPLACE TRIGGER t AFTER INSERT ON incidents EXECUTE FUNCTION f()",
    ],
)
def test_statements_that_break_the_previous_release_are_found(statement: str) -> None:
    assert [breach.statement for breach in breaches("0009", [statement])] == [statement]


@pytest.mark.parametrize(
    "statements",
    [
        ["ALTER TABLE incidents ADD COLUMN priority BIGINT"],
        ["ALTER TABLE incidents ADD COLUMN priority BIGINT DEFAULT 1 NOT NULL"],
        ["ALTER TABLE incidents ADD CONSTRAINT c CHECK (title <> '') NOT VALID"],
        ["CREATE INDEX CONCURRENTLY i ON incidents (title)"],
        ["CREATE TABLE holds (id BIGINT NOT NULL)", "CREATE UNIQUE INDEX i ON holds (id)"],
        ["UPDATE alembic_version SET version_num='0009' WHERE alembic_version.version_num = '0008'"],
    ],
)
def test_additive_statements_are_allowed(statements: list[str]) -> None:
    assert breaches("0009", statements) == []


@pytest.mark.slow
def test_the_previous_release_works_with_the_current_schema(tmp_path: Path) -> None:
    """Run some of the previous release's handler tests with its own code and the migrations added since then."""
    before = previous_release()
    if before is None:
        pytest.skip("no previous release in the history of this clone")
    unpack(before, tmp_path)
    newer = [path for path in (ROOT / VERSIONS).glob("*.py") if not (tmp_path / VERSIONS / path.name).exists()]
    for path in newer:
        shutil.copy(path, tmp_path / VERSIONS)
    # Before 0.1.0, some folders had other names.
    migrate = next(path for path in ("database/migrate.py", "migrate.py") if (tmp_path / "models" / path).exists())
    folder = next(path for path in ("handlers", "handling") if (tmp_path / "tests" / path).exists())
    tests_of_handlers = [f"tests/{folder}/test_{each}.py" for each in HANDLER_TESTS]
    module = ".".join(("models", *Path(migrate).with_suffix("").parts))
    script = f"import {module} as m; print(m.__file__, m.known_revisions()[0])"

    running = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-x", *tests_of_handlers],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )

    assert running.stdout.split() == [str(tmp_path / "models" / migrate), head_revision()]
    assert newer
    assert tests.returncode == 0, tests.stdout[-3000:]


def previous_release() -> str | None:
    """Return the newest tag, or else the newest commit, whose migrations are a subset of today's without the newest."""
    today = migrations_today()
    newest = next(path for path in today if Path(path).name.startswith(f"{head_revision()}_"))
    tags = git("tag", "--list", "v*", "--sort=-version:refname").split()
    commits = git("log", "--first-parent", "--format=%H", "--", VERSIONS.as_posix()).split()
    for release in tags or commits:
        then = migrations_of(release)
        if newest not in then and then and then <= today:
            return release
    return None
