"""A whole database as one file, and back.

The file is a zip archive: one `COPY` per table, all of one snapshot, and a manifest with the schema's revision, the
sequences and a digest of every table. So it can be looked into with common tools, and one cut short is no archive.
Restoring is one transaction: whoever works on the database meanwhile waits, then goes on with what was restored.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql
from sqlalchemy.engine import Connection, Engine

from models.database.grants import grant_to_existing_roles
from models.database.migrate import create_schema, current_of, head_revision, hold_schema, known_revisions, migrate
from models.tables import METADATA
from models.timestamps import iso

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
CHUNK_BYTES: Final = 1 << 18

Tell = Callable[[str, int], None]
"""Called as it goes, with the table in hand and the bytes so far."""


class BackupError(Exception):
    """The file or the database does not fit; the text says why, and what to do. Nothing was changed."""


@dataclass(frozen=True)
class TableCopy:
    """One table in a backup; ``bytes`` and ``sha256`` are those of its uncompressed rows."""

    columns: list[str]
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a backup holds. ``sequences`` are the last values given out."""

    format: int
    tocsin: str
    postgresql: str
    revision: str
    taken_at: str
    tables: dict[str, TableCopy] = field(default_factory=dict)
    sequences: dict[str, int] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Rows in all tables together."""
        return sum(table.rows for table in self.tables.values())


# --- out -------------------------------------------------------------------------------------------------------


def write_backup(engine: Engine, path: Path, *, on_progress: Tell) -> Manifest:
    """Write one consistent snapshot of the database to ``path``, which appears only when it is whole.

    :raises BackupError: there is nothing to back up, or ``path`` holds something that is no backup.
    :raises OSError: the file cannot be written.
    """
    if path.exists() and not _is_backup(path):
        raise BackupError(f"{path} is there and is no backup of tocsin: name another file")
    with hold_schema(engine, shared=True), _draft_of(path) as draft, _snapshot(engine) as connection:
        manifest = _describe(connection)
        with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED, compresslevel=3) as archive:
            for name, columns in _tables(connection).items():
                manifest.tables[name] = _copy_out(connection, archive, name, columns, on_progress)
            # No snapshot holds a sequence still: read last, it is beyond every row above.
            manifest.sequences.update(_sequences(connection))
            archive.writestr(MANIFEST, json.dumps(asdict(manifest), indent=2) + "\n")
    return manifest


@contextlib.contextmanager
def _draft_of(path: Path) -> Iterator[Any]:
    """A private file beside ``path`` that takes its place once it is whole and on the disk."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as draft:
        try:
            yield draft
            draft.flush()
            os.fsync(draft.fileno())
            Path(draft.name).replace(path)
        except BaseException:
            Path(draft.name).unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def _snapshot(engine: Engine) -> Iterator[Connection]:
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        connection.exec_driver_sql("SET TRANSACTION READ ONLY")
        yield connection


def _describe(connection: Connection) -> Manifest:
    revision = current_of(connection)
    if revision is None:
        raise BackupError("the database has no tables of tocsin: there is nothing to back up")
    now, server = connection.exec_driver_sql("SELECT now(), current_setting('server_version')").one()
    return Manifest(FORMAT, version("tocsin"), server, revision, iso(now))


def _copy_out(connection: Connection, archive: zipfile.ZipFile, name: str, columns: list[str], tell: Tell) -> TableCopy:
    statement = sql.SQL("COPY (SELECT {columns} FROM {table}) TO STDOUT").format(
        columns=_names(columns), table=sql.Identifier(name)
    )
    digest, size = hashlib.sha256(), 0
    with _cursor(connection) as cursor, archive.open(_member(name), "w", force_zip64=True) as member:
        with cursor.copy(statement) as copy:
            for chunk in copy:
                digest.update(chunk)
                size += len(chunk)
                member.write(chunk)
                tell(name, len(chunk))
        return TableCopy(columns, cursor.rowcount, size, digest.hexdigest())


# --- in --------------------------------------------------------------------------------------------------------


def read_manifest(path: Path) -> Manifest:
    """What the file says of itself.

    :raises BackupError: it is no backup, was cut short, or is of a release that is newer than this one.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = json.loads(archive.read(MANIFEST))
        if found["format"] > FORMAT:
            raise BackupError(
                f"{path} was made by tocsin {found['tocsin']}: restore it with that release or a newer one"
            )
        tables = {name: TableCopy(**table) for name, table in found.pop("tables").items()}
        manifest = Manifest(tables=tables, **found)
    except OSError as error:
        raise BackupError(f"{path} cannot be read: {error.strerror}; name a file that `tocsin backup` wrote") from None
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError):
        raise BackupError(f"{path} is no backup of tocsin, or was cut short: name another file") from None
    if manifest.revision not in known_revisions():
        raise BackupError(
            f"{path} has the schema {manifest.revision} of tocsin {manifest.tocsin}, and this release knows "
            f"{head_revision()} at the newest: restore it with that release or a newer one"
        )
    return manifest


def count_rows_to_replace(engine: Engine) -> int:
    """How many commands and organizations a restore would throw away.

    :raises BackupError: the database belongs to a newer release.
    """
    with engine.connect() as connection:
        revision = current_of(connection)
        if revision is None:
            return 0
        if revision not in known_revisions():
            raise BackupError(
                f"the database has the schema {revision}, which this release does not know: restore with a newer one"
            )
        counts = connection.exec_driver_sql("SELECT (SELECT count(*) FROM commands) + count(*) FROM organizations")
        return int(counts.scalar_one())


def restore_backup(engine: Engine, path: Path, *, on_progress: Tell) -> Manifest:
    """Put what the file holds in the place of what the database holds, all or nothing; then bring it to head.

    :raises BackupError: the file is damaged.
    """
    manifest = read_manifest(path)
    with hold_schema(engine), engine.connect() as connection, zipfile.ZipFile(path) as archive:
        given_out = _clear(connection)
        create_schema(connection, manifest.revision)
        _load(connection, archive, manifest, on_progress)
        _move_sequences(connection, manifest.sequences, given_out)
        grant_to_existing_roles(connection)
        connection.commit()
    migrate(engine)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE")
    return manifest


def _clear(connection: Connection) -> dict[str, int]:
    """Drop our tables, and say what their sequences had given out."""
    there = [name for name in (*METADATA.tables, "alembic_version") if name in _tables(connection, every=True)]
    given_out = _sequences(connection)
    if there:
        names = sql.SQL(", ").join(sql.Identifier(name) for name in there)
        with _cursor(connection) as cursor:
            cursor.execute(sql.SQL("DROP TABLE {}").format(names))
    return given_out


def _load(connection: Connection, archive: zipfile.ZipFile, manifest: Manifest, tell: Tell) -> None:
    tables = _tables(connection)
    if strangers := sorted(set(manifest.tables) - set(tables)):
        raise BackupError(f"the backup has tables that are none of tocsin's, schema {manifest.revision}: {strangers}")
    with _cursor(connection) as cursor:
        # What a migration itself put in is in the backup too.
        cursor.execute(sql.SQL("TRUNCATE {}").format(_names(tables)))
        with _unwatched(cursor, tables):
            for name, table in manifest.tables.items():
                _copy_in(cursor, archive, name, table, tell)


def _copy_in(cursor: Any, archive: zipfile.ZipFile, name: str, table: TableCopy, tell: Tell) -> None:
    statement = sql.SQL("COPY {table} ({columns}) FROM STDIN").format(
        table=sql.Identifier(name), columns=_names(table.columns)
    )
    digest = hashlib.sha256()
    damaged = BackupError(f"the backup is damaged in its table {name}; nothing was restored: take another")
    try:
        with archive.open(_member(name)) as member, cursor.copy(statement) as copy:
            while chunk := member.read(CHUNK_BYTES):
                digest.update(chunk)
                copy.write(chunk)
                tell(name, len(chunk))
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, psycopg.DataError):
        raise damaged from None
    if digest.hexdigest() != table.sha256:
        raise damaged


@contextlib.contextmanager
def _unwatched(cursor: Any, tables: Iterable[str]) -> Iterator[None]:
    """Take foreign keys and triggers away while the tables fill in any order; putting keys back checks every row."""
    cursor.execute(
        "SELECT conrelid::regclass::text, quote_ident(conname), pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE contype = 'f' AND connamespace = current_schema()::regnamespace ORDER BY 1, 2"
    )
    references = cursor.fetchall()
    for table, name, _ in references:
        cursor.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    # What a trigger wrote beside a row is in the backup too.
    for table in tables:
        cursor.execute(sql.SQL("ALTER TABLE {} DISABLE TRIGGER USER").format(sql.Identifier(table)))
    yield
    for table in tables:
        cursor.execute(sql.SQL("ALTER TABLE {} ENABLE TRIGGER USER").format(sql.Identifier(table)))
    for table, name, definition in references:
        cursor.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}")


def _move_sequences(connection: Connection, saved: dict[str, int], given_out: dict[str, int]) -> None:
    """Go on beyond the backup, and beyond what this database gave out after it: no id means two things."""
    for name in _sequences(connection):
        if last := max(saved.get(name, 0), given_out.get(name, 0)):
            connection.exec_driver_sql(
                "SELECT setval(quote_ident(%(name)s)::regclass, %(last)s)", {"name": name, "last": last}
            )


# --- the catalogue ---------------------------------------------------------------------------------------------


def _tables(connection: Connection, *, every: bool = False) -> dict[str, list[str]]:
    """The tables with their columns, alembic's own only if ``every`` is wanted."""
    rows = connection.exec_driver_sql(
        "SELECT c.relname, array_agg(a.attname::text ORDER BY a.attnum) AS columns FROM pg_class c"
        " JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''"
        " WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition"
        " AND (%(every)s OR c.relname <> 'alembic_version') GROUP BY c.relname ORDER BY c.relname",
        {"every": every},
    )
    return {row.relname: row.columns for row in rows}


def _sequences(connection: Connection) -> dict[str, int]:
    """The last value that each sequence gave out, 0 for none."""
    rows = connection.exec_driver_sql(
        "SELECT sequencename, coalesce(last_value, 0) AS last FROM pg_sequences WHERE schemaname = current_schema()"
    )
    return {row.sequencename: row.last for row in rows}


def _is_backup(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return MANIFEST in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def _member(table: str) -> str:
    return f"tables/{table}.copy"


def _names(names: Any) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(name) for name in names)


def _cursor(connection: Connection) -> Any:
    """psycopg's own cursor, in the same transaction: SQLAlchemy has no COPY."""
    driver: Any = connection.connection.driver_connection
    return driver.cursor()
