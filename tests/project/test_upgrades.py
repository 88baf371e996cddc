"""A migration works with the previous release still running: its statements are judged, and that release is run."""

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
from tests.project.migrations import breaches, statements_of_each
from tests.project.tree import ROOT

HANDLING = ("comments", "incidents", "subscriptions")
VERSIONS = Path("models/migrations/versions")


@pytest.fixture
def empty(maintenance: Engine) -> Iterator[Engine]:
    """A database without tables."""
    with maintenance.connect() as connection:
        connection.exec_driver_sql("CREATE DATABASE untouched")
    yield create_engine(maintenance.url.set(database="untouched"), poolclass=NullPool)
    with maintenance.connect() as connection:
        connection.exec_driver_sql("DROP DATABASE untouched WITH (FORCE)")


def test_no_migration_takes_away_what_the_previous_release_uses(empty: Engine) -> None:
    ran = statements_of_each(empty)

    assert set(ran) == set(known_revisions())
    assert all(statements for statements in ran.values())
    found = [breach for revision, statements in ran.items() for breach in breaches(revision, statements)]
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
def test_what_the_previous_release_would_feel_is_found(statement: str) -> None:
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
def test_what_only_adds_passes(statements: list[str]) -> None:
    assert breaches("0009", statements) == []


def test_the_previous_release_works_on_the_schema_of_this_one(tmp_path: Path) -> None:
    """Some of its own tests of handling, run by its own code, with the migrations that came since laid over it."""
    before = previous_release()
    if before is None:
        pytest.skip("the history of this repository is not here: no previous release to run")
    unpack(before, tmp_path)
    came_since = [path for path in (ROOT / VERSIONS).glob("*.py") if not (tmp_path / VERSIONS / path.name).exists()]
    for path in came_since:
        shutil.copy(path, tmp_path / VERSIONS)
    # Until 0.1.0 the folders had other names.
    migrate = next(path for path in ("database/migrate.py", "migrate.py") if (tmp_path / "models" / path).exists())
    folder = next(path for path in ("handlers", "handling") if (tmp_path / "tests" / path).exists())
    handling = [f"tests/{folder}/test_{each}.py" for each in HANDLING]
    module = ".".join(("models", *Path(migrate).with_suffix("").parts))
    told = f"import {module} as m; print(m.__file__, m.head())"

    running = subprocess.run([sys.executable, "-c", told], cwd=tmp_path, capture_output=True, text=True, check=True)
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-x", *handling],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )

    assert running.stdout.split() == [str(tmp_path / "models" / migrate), head_revision()]
    assert came_since
    assert tests.returncode == 0, tests.stdout[-3000:]


def previous_release() -> str | None:
    """The newest tag, before there are tags the newest commit, that lacks the newest migration and has no other."""
    today = {path.relative_to(ROOT).as_posix() for path in (ROOT / VERSIONS).glob("*.py")}
    newest = next(path for path in today if Path(path).name.startswith(f"{head_revision()}_"))
    tags = git("tag", "--list", "v*", "--sort=-version:refname").split()
    commits = git("log", "--first-parent", "--format=%H", "--", VERSIONS.as_posix()).split()
    for release in tags or commits:
        then = set(git("ls-tree", "--name-only", release, f"{VERSIONS.as_posix()}/").split())
        if newest not in then and then and then <= today:
            return release
    return None


def unpack(commit: str, folder: Path) -> None:
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)


def git(*words: str) -> str:
    try:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return ""
