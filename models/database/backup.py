"""Back up the whole database to one file, and restore it.

The file is a zip archive that contains the `COPY` output of every table, all from one snapshot, and a manifest with the
schema revision, the sequences and a digest of every table. Common tools can inspect the file, and a truncated file is
not a valid archive. A restore is a single transaction. Other processes wait until it ends, then continue with the
restored data.
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
from models.database.migrate import create_schema, head_revision, known_revisions, migrate, revision_of, schema_lock
from models.tables import METADATA
from models.timestamps import iso

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
CHUNK_BYTES: Final = 1 << 18

ProgressCallback = Callable[[str, int], None]
"""A function that is called for each chunk, with the table's name and the chunk's size in bytes."""


class BackupError(Exception):
    """Raised when the backup or the database is unsuitable. Nothing is changed. The message says what to do."""


@dataclass(frozen=True)
class TableCopy:
    """A table in a backup. ``bytes`` and ``sha256`` refer to its uncompressed rows."""

    columns: list[str]
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """A description of a backup's contents. ``sequences`` maps each sequence to the last value that it generated."""

    format: int
    tocsin: str
    postgresql: str
    revision: str
    taken_at: str
    tables: dict[str, TableCopy] = field(default_factory=dict)
    sequences: dict[str, int] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """The number of rows in all tables."""
        return sum(table.rows for table in self.tables.values())


# --- back up ---------------------------------------------------------------------------------------------------


def write_backup(engine: Engine, path: Path, *, on_progress: ProgressCallback) -> Manifest:
    """Write a consistent snapshot of the database to ``path``, which is created or replaced atomically.

    :raises BackupError: when the database is empty, or ``path`` exists and is not a backup.
    :raises OSError: when the file cannot be written.
    """
    if path.exists() and not _is_backup(path):
        raise BackupError(f"{path} exists and is not a backup of tocsin: choose another file")
    with schema_lock(engine, shared=True), _draft_of(path) as draft, _snapshot(engine) as connection:
        manifest = _describe(connection)
        with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED, compresslevel=3) as archive:
            for name, columns in _tables(connection).items():
                manifest.tables[name] = _copy_out(connection, archive, name, columns, on_progress)
            # Sequences are not part of the snapshot. They are read last, so they have passed every id copied above.
            manifest.sequences.update(_sequences(connection))
            archive.writestr(MANIFEST, json.dumps(asdict(manifest), indent=2) + "\n")
    return manifest


@contextlib.contextmanager
def _draft_of(path: Path) -> Iterator[Any]:
    """Yield a temporary file beside ``path``, then flush the file to disk and rename it to ``path``."""
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
    revision = revision_of(connection)
    if revision is None:
        raise BackupError("the database has no tables of tocsin: there is nothing to back up")
    server = connection.exec_driver_sql("SELECT now() AS now, current_setting('server_version') AS version").one()
    return Manifest(FORMAT, version("tocsin"), server.version, revision, iso(server.now))


def _copy_out(
    connection: Connection, archive: zipfile.ZipFile, name: str, columns: list[str], on_progress: ProgressCallback
) -> TableCopy:
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
                on_progress(name, len(chunk))
        return TableCopy(columns, cursor.rowcount, size, digest.hexdigest())


# --- restore ---------------------------------------------------------------------------------------------------


def read_manifest(path: Path) -> Manifest:
    """Return the manifest of a backup.

    :raises BackupError: when the file is unreadable, not a backup, truncated, or from a newer release.
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
        raise BackupError(
            f"{path} cannot be read: {error.strerror}; choose a file that `tocsin backup` wrote"
        ) from None
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError):
        raise BackupError(f"{path} is not a backup of tocsin, or was truncated: choose another file") from None
    if manifest.revision not in known_revisions():
        raise BackupError(
            f"{path} has the schema {manifest.revision} of tocsin {manifest.tocsin}, and this release supports "
            f"schemas up to {head_revision()}: restore it with that release or a newer one"
        )
    return manifest


def count_rows_to_replace(engine: Engine) -> int:
    """Return the total number of commands and organizations that a restore would replace.

    :raises BackupError: when the database was migrated by a newer release.
    """
    with engine.connect() as connection:
        revision = revision_of(connection)
        if revision is None:
            return 0
        if revision not in known_revisions():
            raise BackupError(
                f"the database has the schema {revision}, which this release does not know: restore with a newer one"
            )
        counts = connection.exec_driver_sql("SELECT (SELECT count(*) FROM commands) + count(*) FROM organizations")
        return int(counts.scalar_one())


def restore_backup(engine: Engine, path: Path, *, on_progress: ProgressCallback) -> Manifest:
    """Replace the database's contents with a backup in one transaction, then migrate the schema to head.

    :raises BackupError: when the file is unsuitable or damaged. In this case nothing is changed.
    """
    manifest = read_manifest(path)
    with schema_lock(engine), engine.connect() as connection, zipfile.ZipFile(path) as archive:
        generated = _clear(connection)
        create_schema(connection, manifest.revision)
        _load(connection, archive, manifest, on_progress)
        _move_sequences(connection, manifest.sequences, generated)
        grant_to_existing_roles(connection)
        connection.commit()
    migrate(engine)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE")
    return manifest


def _clear(connection: Connection) -> dict[str, int]:
    """Drop tocsin's tables, and return the last value that each sequence had generated."""
    existing = [name for name in (*METADATA.tables, "alembic_version") if name in _tables(connection, every=True)]
    generated = _sequences(connection)
    if existing:
        names = sql.SQL(", ").join(sql.Identifier(name) for name in existing)
        with _cursor(connection) as cursor:
            cursor.execute(sql.SQL("DROP TABLE {}").format(names))
    return generated


def _load(connection: Connection, archive: zipfile.ZipFile, manifest: Manifest, on_progress: ProgressCallback) -> None:
    tables = _tables(connection)
    if unknown := sorted(set(manifest.tables) - set(tables)):
        raise BackupError(f"the backup has tables that schema {manifest.revision} does not have: {unknown}")
    with _cursor(connection) as cursor:
        # Rows that migrations insert are in the backup, too.
        cursor.execute(sql.SQL("TRUNCATE {}").format(_names(tables)))
        with _without_constraints(cursor, tables):
            for name, table in manifest.tables.items():
                _copy_in(cursor, archive, name, table, on_progress)


def _copy_in(cursor: Any, archive: zipfile.ZipFile, name: str, table: TableCopy, on_progress: ProgressCallback) -> None:
    statement = sql.SQL("COPY {table} ({columns}) FROM STDIN").format(
        table=sql.Identifier(name), columns=_names(table.columns)
    )
    digest = hashlib.sha256()
    damaged = BackupError(f"the backup is damaged in its table {name}; nothing was restored: use another backup")
    try:
        with archive.open(_member(name)) as member, cursor.copy(statement) as copy:
            while chunk := member.read(CHUNK_BYTES):
                digest.update(chunk)
                copy.write(chunk)
                on_progress(name, len(chunk))
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, psycopg.DataError):
        raise damaged from None
    if digest.hexdigest() != table.sha256:
        raise damaged


@contextlib.contextmanager
def _without_constraints(cursor: Any, tables: Iterable[str]) -> Iterator[None]:
    """Drop foreign keys and disable triggers, so that tables can be filled in any order, and restore both on exit.

    Every row is validated when the foreign keys are added again.
    """
    cursor.execute(
        "SELECT conrelid::regclass::text, quote_ident(conname), pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE contype = 'f' AND connamespace = current_schema()::regnamespace ORDER BY 1, 2"
    )
    references = cursor.fetchall()
    for table, name, _ in references:
        cursor.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    # Rows that triggers insert are in the backup, too.
    for table in tables:
        cursor.execute(sql.SQL("ALTER TABLE {} DISABLE TRIGGER USER").format(sql.Identifier(table)))
    yield
    for table in tables:
        cursor.execute(sql.SQL("ALTER TABLE {} ENABLE TRIGGER USER").format(sql.Identifier(table)))
    for table, name, definition in references:
        cursor.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}")


def _move_sequences(connection: Connection, saved: dict[str, int], generated: dict[str, int]) -> None:
    """Advance each sequence past the last value in the backup and the last one in the old database.

    This ensures that no id is used twice.
    """
    for name in _sequences(connection):
        if last := max(saved.get(name, 0), generated.get(name, 0)):
            connection.exec_driver_sql(
                "SELECT setval(quote_ident(%(name)s)::regclass, %(last)s)", {"name": name, "last": last}
            )


# --- system catalogs -------------------------------------------------------------------------------------------


def _tables(connection: Connection, *, every: bool = False) -> dict[str, list[str]]:
    """Return each table's columns, by table name. Alembic's own table is included only if ``every`` is true."""
    rows = connection.exec_driver_sql(
        "SELECT c.relname, array_agg(a.attname::text ORDER BY a.attnum) AS columns FROM pg_class c"
        " JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''"
        " WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition"
        " AND (%(every)s OR c.relname <> 'alembic_version') GROUP BY c.relname ORDER BY c.relname",
        {"every": every},
    )
    return {row.relname: row.columns for row in rows}


def _sequences(connection: Connection) -> dict[str, int]:
    """Return the last value that each sequence generated, by sequence name, or 0 if the sequence is unused."""
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
    """Return a psycopg cursor in the connection's transaction, because SQLAlchemy does not support COPY."""
    driver: Any = connection.connection.driver_connection
    return driver.cursor()
