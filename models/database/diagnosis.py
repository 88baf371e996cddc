"""One-sentence explanations of database errors that only an operator can resolve."""

from __future__ import annotations

import re
from typing import Final

from sqlalchemy.exc import DBAPIError, OperationalError

from models.database.engine import sqlstate

NO_SCHEMA: Final = "the database has no schema: run `tocsin migrate`"

_UNDEFINED_TABLE: Final = "42P01"

# libpq does not report an SQLSTATE for a failed connection attempt, so the message text is matched. Errors that are not
# listed here, such as "the database system is starting up" or "too many clients already", may be temporary.
_LOGIN_REFUSED: Final = re.compile(
    r"authentication failed|no password supplied|no pg_hba\.conf entry|pg_hba\.conf rejects"
    r"|(?:role|database) \".*\" does not exist|is not permitted to log in|permission denied for database"
    r"|no such (?:user|database)"  # PgBouncer
)


def explain_unusable_database(error: DBAPIError) -> str | None:
    """Explain a refused login, an unknown database or a missing schema. Return ``None`` for any other error."""
    if sqlstate(error) == _UNDEFINED_TABLE:
        return NO_SCHEMA
    if isinstance(error, OperationalError):
        for line in str(error.orig).splitlines():
            if _LOGIN_REFUSED.search(line):
                return f"the database refuses the login ({line.rpartition('FATAL:')[2].strip()}): correct DATABASE_URL"
    return None
