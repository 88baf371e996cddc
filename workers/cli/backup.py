"""`tocsin backup` and `tocsin restore`: save the whole database to one file, and restore it."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy.engine import Engine

from models.database.backup import (
    BackupError,
    Manifest,
    count_rows_to_replace,
    read_manifest,
    restore_backup,
    write_backup,
)
from workers.cli.common import DataOption, JsonOption, print_json, print_line, resolve_data_dir
from workers.cli.database import open_engine
from workers.cli.errors import CliError
from workers.stack.data_dir import DataDirectory
from workers.stack.discovery import find_running_stack
from workers.stack.servers import embedded_servers
from workers.stack.settings import StackSettings

PROGRESS_SECONDS = 1.0


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")],
    *,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a consistent snapshot of the whole database to FILE while the processes keep running."""
    try:
        with _open_engine(data) as engine:
            manifest = write_backup(engine, file.absolute(), on_progress=_progress("backed up"))
    except BackupError as error:
        raise CliError(str(error)) from None
    except OSError as error:
        raise CliError(
            f"{file} cannot be written: {error.strerror}; choose a file in a directory that you may write to"
        ) from None
    _print_result(f"{file} holds", file, manifest, as_json=as_json)


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `tocsin backup` wrote.")],
    *,
    data: DataOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Replace the database's content, all or nothing, with that of FILE, and upgrade the schema to this release."""
    try:
        manifest = read_manifest(file)
        with _open_engine(data, fresh=True) as engine:
            _confirm(count_rows_to_replace(engine), yes=yes)
            restore_backup(engine, file, on_progress=_progress("restored"))
    except BackupError as error:
        raise CliError(str(error)) from None
    _print_result("restored", file, manifest, as_json=as_json)


@contextlib.contextmanager
def _open_engine(data: Path | None, *, fresh: bool = False) -> Iterator[Engine]:
    """Yield an engine for the database. If the stack is stopped, its embedded servers run while the block runs.

    If ``fresh`` is true, the servers also run in a data directory that has never held a stack, so that a backup can be
    restored into it.
    """
    directory = resolve_data_dir(data)
    configured = "DATABASE_URL" in StackSettings.from_environment().environment
    with contextlib.ExitStack() as running:
        if (
            not configured
            and find_running_stack(directory) is None
            and (fresh or DataDirectory(directory).is_initialized)
        ):
            os.environ.update(running.enter_context(embedded_servers(directory)).environment)
        yield running.enter_context(open_engine(data))


def _confirm(rows: int, *, yes: bool) -> None:
    if not rows or yes:
        return
    if not sys.stdin.isatty():
        raise CliError("the database is not empty: confirm with --yes that the backup replaces its content")
    if not typer.confirm("The database is not empty. Delete its content?", err=True):
        raise CliError("the database was not changed")


def _progress(verb: str) -> Callable[[str, int], None]:
    """Return a callback that prints progress to stderr, at most once a second."""
    total, due = 0, time.monotonic() + PROGRESS_SECONDS

    def report(table: str, size: int) -> None:
        nonlocal total, due
        total += size
        if time.monotonic() >= due:
            due = time.monotonic() + PROGRESS_SECONDS
            typer.echo(f"{verb} {total / 2**20:.0f} MiB, now {table}", err=True)

    return report


def _print_result(what: str, file: Path, manifest: Manifest, *, as_json: bool) -> None:
    if as_json:
        facts = {"revision": manifest.revision, "takenAt": manifest.taken_at, "tocsin": manifest.tocsin}
        print_json({"file": str(file), **facts, "tables": len(manifest.tables), "rows": manifest.rows})
        return
    print_line(
        f"{what} {manifest.rows} rows of {len(manifest.tables)} tables, schema {manifest.revision}, "
        f"as they were at {manifest.taken_at}"
    )
