"""The demo's tokens, which everyone knows. They are valid only while the demo runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from sqlalchemy import ColumnElement, func, select, text, update
from sqlalchemy.engine import Connection

from models.database.engine import make_engine
from models.directory.tables import hash_token, tokens
from models.settings import sqlalchemy_url

DIRECTORY: Final = Path(__file__).with_name("demo.json")
"""The document that lists the demo's organizations, people and projects. The tokens in it are public."""


def count_demo_tokens(connection: Connection) -> int:
    """Return how many of the demo's tokens are valid."""
    valid = tokens.c.revoked_at.is_(None)
    return connection.execute(select(func.count()).where(_are_of_the_demo(), valid)).scalar_one()


def begin_demo_tokens(connection: Connection) -> None:
    """Make the demo's tokens valid again."""
    connection.execute(update(tokens).where(_are_of_the_demo()).values(revoked_at=None))


def end_demo_tokens(database_url: str) -> None:
    """Revoke the demo's tokens, if the database has any."""
    engine = make_engine(sqlalchemy_url(database_url), application="tocsin-demo", pool_size=1)
    try:
        with engine.begin() as connection:
            revoked = text("coalesce(revoked_at, clock_timestamp())")
            connection.execute(update(tokens).where(_are_of_the_demo()).values(revoked_at=revoked))
    finally:
        engine.dispose()


def _are_of_the_demo() -> ColumnElement[bool]:
    document = json.loads(DIRECTORY.read_text())
    return tokens.c.hash.in_([hash_token(each["token"]) for each in document["tokens"]])
