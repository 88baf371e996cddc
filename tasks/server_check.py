"""The check of the database and the broker that runs when a process starts.

If a server is unreachable, the process starts anyway and waits for it. A refused login, an unknown database or a
missing schema requires an operator, so the process exits with a one-sentence error instead of retrying.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import structlog
from amqp.exceptions import AccessRefused, NotAllowed
from redis.exceptions import AuthenticationError
from sqlalchemy.exc import DBAPIError

from models.database.engine import make_engine
from models.database.errors import NO_SCHEMA, explain_unusable_database
from tasks.app import make_app
from tasks.settings import BrokerSettings, ProcessSettings
from tasks.startup import StartupError

BROKER_SECONDS: Final = 3.0
"""The timeout for connecting to the broker, in seconds."""

log = structlog.get_logger(__name__)


def check_servers(settings: ProcessSettings) -> None:
    """Log in to the database and to the broker once. A server that cannot be reached is not an error.

    :raises StartupError: a login is refused, or the database does not exist or has no schema.
    """
    check_database(settings.database_url)
    check_broker(settings)


def check_database(url: str) -> None:
    """Log in to PostgreSQL and check that the schema exists. A server that cannot be reached is not an error.

    :raises StartupError: the login is refused, or the database does not exist or has no schema.
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
    """Log in to the broker. A broker that cannot be reached is not an error.

    :raises StartupError: the login is refused.
    """
    try:
        with make_app(settings).connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=BROKER_SECONDS)
            connection.default_channel.close()
    except Exception as error:
        # Each transport raises its own errors. Whatever is not a refusal is left to the process.
        if sentence := explain_refusal(error):
            raise StartupError(sentence) from None
        log.warning("startup.broker_unreachable", error=_first_line(error))


def explain_refusal(error: BaseException) -> str | None:
    """Return a sentence that explains an error that only an operator can resolve, or ``None`` for any other error.

    Such an error is a login refused by the database or the broker, an unknown database, or a missing schema.
    """
    for cause in _causes(error):
        if isinstance(cause, DBAPIError) and (sentence := explain_unusable_database(cause)):
            return sentence
        if isinstance(cause, (AuthenticationError, AccessRefused, NotAllowed)):
            return f"the broker refuses access ({_first_line(cause)}): correct BROKER_URL or its permissions"
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _first_line(error: object) -> str:
    return str(error).strip().split("\n", 1)[0].rstrip(".") or type(error).__name__
