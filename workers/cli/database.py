"""Database access for commands. Each database error is reported as one sentence."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError

from models.database.engine import make_engine
from models.database.errors import explain_unusable_database
from models.settings import DatabaseSettings
from workers.cli.common import use_stack_environment
from workers.cli.errors import CliError


@contextlib.contextmanager
def open_engine(data: Path | None) -> Iterator[Engine]:
    """Yield an engine for the configured database, or for the database of the stack that runs in `data`.

    :raises CliError: the database is unreachable, or a statement fails.
    """
    use_stack_environment(data)
    engine = make_engine(DatabaseSettings.from_environment().database_url, application="tocsin cli", pool_size=2)
    try:
        yield engine
    except DBAPIError as error:
        raise CliError(_describe(engine, error)) from None
    finally:
        engine.dispose()


@contextlib.contextmanager
def transaction(data: Path | None) -> Iterator[Connection]:
    """Yield a connection from :func:`open_engine`, in a transaction that commits unless the block raises an error."""
    with open_engine(data) as engine, engine.begin() as connection:
        yield connection


def _describe(engine: Engine, error: DBAPIError) -> str:
    if sentence := explain_unusable_database(error):
        return sentence
    reason = str(error.orig).strip().splitlines()[0]
    return f"the database {engine.url.render_as_string()} failed: {reason}; check DATABASE_URL"
