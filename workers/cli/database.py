"""The database that a command works on, with its faults said as sentences."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError

from models.database.engine import make_engine, sqlstate
from models.settings import DatabaseSettings
from workers.cli.common import use_stack_environment
from workers.cli.errors import CliError

_NO_SUCH_TABLE = "42P01"


@contextlib.contextmanager
def open_engine(data: Path | None) -> Iterator[Engine]:
    """The configured database, or that of the stack that runs on `data`.

    :raises Refused: it does not answer, or it says no.
    """
    use_stack_environment(data)
    engine = make_engine(DatabaseSettings.from_environment().database_url, application="tocsin cli", pool_size=2)
    try:
        yield engine
    except DBAPIError as fault:
        raise CliError(_sentence(engine, fault)) from None
    finally:
        engine.dispose()


@contextlib.contextmanager
def transaction(data: Path | None) -> Iterator[Connection]:
    """A transaction on that database: it commits when the block ends, unless by an exception."""
    with open_engine(data) as engine, engine.begin() as connection:
        yield connection


def _sentence(engine: Engine, fault: DBAPIError) -> str:
    if sqlstate(fault) == _NO_SUCH_TABLE:
        return "the database has no tables of tocsin yet: run `tocsin migrate`"
    reason = str(fault.orig).strip().splitlines()[0]
    return f"the database {engine.url.render_as_string()} does not serve: {reason}; check DATABASE_URL"
