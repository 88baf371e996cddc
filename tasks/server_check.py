"""The check of database and broker before a process starts.

A server that is unreachable is waited for by the process. A refused login, an unknown database or a missing schema
needs an operator, so the process ends with one sentence instead of retrying.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import structlog
from amqp.exceptions import AccessRefused, NotAllowed
from redis.exceptions import AuthenticationError
from sqlalchemy.exc import DBAPIError, OperationalError

from models.database.engine import make_engine, sqlstate
from tasks.app import make_app
from tasks.settings import BrokerSettings, ProcessSettings
from tasks.startup import StartupError

BROKER_SECONDS: Final = 3.0
"""How long to try to connect to the broker."""

UNDEFINED_TABLE: Final = "42P01"
"""The SQLSTATE of a query on a table that does not exist."""

NO_SCHEMA: Final = "the database has no schema: run `tocsin migrate`"

# libpq passes no SQLSTATE on for a failed connection attempt, so its text decides. What is not listed here, such as
# "the database system is starting up" or "too many clients already", may pass.
_LOGIN_REFUSED: Final = re.compile(
    r"authentication failed|no password supplied|no pg_hba\.conf entry|pg_hba\.conf rejects"
    r"|(?:role|database) \".*\" does not exist|is not permitted to log in|permission denied for database"
    r"|no such (?:user|database)"  # PgBouncer
)

log = structlog.get_logger(__name__)


def check_servers(settings: ProcessSettings) -> None:
    """Log in to the database and to the broker once; pass if a server cannot be reached.

    :raises StartupError: a login is refused, the database does not exist, or it has no schema.
    """
    check_database(settings.database_url)
    check_broker(settings)


def check_database(url: str) -> None:
    """Log in to PostgreSQL and look for the schema; pass if it cannot be reached.

    :raises StartupError: the login is refused, the database does not exist, or it has no schema.
    """
    engine = make_engine(url, application="tocsin-startup", pool_size=1)
    try:
        with engine.connect() as connection:
            has_schema = connection.exec_driver_sql("SELECT to_regclass('alembic_version') IS NOT NULL").scalar_one()
    except DBAPIError as error:
        if sentence := explain_refusal(error):
            raise StartupError(sentence) from None
        log.warning("startup.database_unreachable", error=_first_line(error.orig or error))
        return
    finally:
        engine.dispose()
    if not has_schema:
        raise StartupError(NO_SCHEMA)


def check_broker(settings: BrokerSettings) -> None:
    """Log in to the broker; pass if it cannot be reached.

    :raises StartupError: the login is refused.
    """
    try:
        with make_app(settings).connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=BROKER_SECONDS)
            connection.default_channel.close()
    except Exception as error:
        # Transports raise their own errors, and whatever is not a refusal is left to the process.
        if sentence := explain_refusal(error):
            raise StartupError(sentence) from None
        log.warning("startup.broker_unreachable", error=_first_line(error))


def explain_refusal(error: BaseException) -> str | None:
    """Return the sentence for an error that an operator has to resolve, or None for any other error.

    Those are a refused login or an unknown database, a missing schema, and a login that the broker refuses.
    """
    for cause in _causes(error):
        if isinstance(cause, DBAPIError) and sqlstate(cause) == UNDEFINED_TABLE:
            return NO_SCHEMA
        if isinstance(cause, OperationalError) and (reason := _refused_login(str(cause.orig))):
            return f"the database refuses the login ({reason}): correct DATABASE_URL"
        if isinstance(cause, (AuthenticationError, AccessRefused, NotAllowed)):
            return f"the broker refuses the login ({_first_line(cause)}): correct BROKER_URL"
    return None


def _refused_login(message: str) -> str | None:
    for line in message.splitlines():
        if _LOGIN_REFUSED.search(line):
            return line.rpartition("FATAL:")[2].strip()
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _first_line(error: object) -> str:
    return str(error).strip().split("\n", 1)[0].rstrip(".") or type(error).__name__
