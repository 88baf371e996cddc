"""Fixtures shared by the end-to-end tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy.engine import make_url

from models.database.grants import GRANTS, create_roles, grant_to_existing_roles
from tests.conftest import Database


@pytest.fixture
def urls(database: Database) -> Iterator[dict[str, str]]:
    """The DATABASE_URL for each process, with a login role that is a member of the process's role."""
    with database.engine.begin() as connection:
        create_roles(connection)
        grant_to_existing_roles(connection)
        for role in GRANTS:
            connection.exec_driver_sql(f"CREATE ROLE {role}_login LOGIN IN ROLE {role}")
    yield {
        role.removeprefix("tocsin_"): make_url(database.url).set(username=f"{role}_login").render_as_string()
        for role in GRANTS
    }
    with database.engine.begin() as connection:
        for role in GRANTS:
            connection.exec_driver_sql(f"DROP OWNED BY {role}")
            connection.exec_driver_sql(f"DROP ROLE {role}_login, {role}")
