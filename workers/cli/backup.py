"""`tocsin backup` and `tocsin restore`: the whole database as one file, and back."""

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

TELL_SECONDS = 1.0


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")],
    *,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the whole database, as it is at one moment, to FILE; everything goes on meanwhile."""
    try:
        with _reached_engine(data) as engine:
            manifest = write_backup(engine, file.absolute(), on_progress=_progress("backed up"))
    except BackupError as error:
        raise CliError(str(error)) from None
    except OSError as error:
        raise CliError(
            f"{file} cannot be written: {error.strerror}; name a file in a folder that you may write to"
        ) from None
    _answer(f"{file} holds", file, manifest, as_json=as_json)


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `tocsin backup` wrote.")],
    *,
    data: DataOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before what is there goes.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Put what FILE holds in the place of what the database holds, all or nothing, then bring it to this release."""
    try:
        manifest = read_manifest(file)
        with _reached_engine(data, fresh=True) as engine:
            _ask(count_rows_to_replace(engine), yes=yes)
            restore_backup(engine, file, on_progress=_progress("restored"))
    except BackupError as error:
        raise CliError(str(error)) from None
    _answer("restored", file, manifest, as_json=as_json)


@contextlib.contextmanager
def _reached_engine(data: Path | None, *, fresh: bool = False) -> Iterator[Engine]:
    """The database, if need be with the embedded server of a stopped stack started for as long as this takes.

    A ``fresh`` folder will do to restore into.
    """
    folder = resolve_data_dir(data)
    configured = "DATABASE_URL" in StackSettings.from_environment().environment
    with contextlib.ExitStack() as running:
        if not configured and find_running_stack(folder) is None and (fresh or DataDirectory(folder).is_initialized):
            os.environ.update(running.enter_context(embedded_servers(folder)).environment)
        yield running.enter_context(open_engine(data))


def _ask(rows: int, *, yes: bool) -> None:
    if not rows or yes:
        return
    if not sys.stdin.isatty():
        raise CliError("the database is not empty: --yes lets the backup take the place of what is there")
    if not typer.confirm("The database is not empty. Throw away what is there?", err=True):
        raise CliError("the database stays as it was")


def _progress(verb: str) -> Callable[[str, int], None]:
    """Say on stderr how far it is, once a second; what is done within a second says nothing."""
    total, due = 0, time.monotonic() + TELL_SECONDS

    def tell(table: str, size: int) -> None:
        nonlocal total, due
        total += size
        if time.monotonic() >= due:
            due = time.monotonic() + TELL_SECONDS
            typer.echo(f"{verb} {total / 2**20:.0f} MiB, now {table}", err=True)

    return tell


def _answer(what: str, file: Path, manifest: Manifest, *, as_json: bool) -> None:
    if as_json:
        facts = {"revision": manifest.revision, "takenAt": manifest.taken_at, "tocsin": manifest.tocsin}
        print_json({"file": str(file), **facts, "tables": len(manifest.tables), "rows": manifest.rows})
        return
    print_line(
        f"{what} {manifest.rows} rows of {len(manifest.tables)} tables, schema {manifest.revision}, "
        f"as they were at {manifest.taken_at}"
    )
