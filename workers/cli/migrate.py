"""`tocsin migrate`: upgrade the schema."""

from __future__ import annotations

from typing import Annotated

import typer
from sqlalchemy.exc import ProgrammingError

from models.database.errors import sqlstate
from tasks.log_config import configure_logging
from tasks.settings import LogSettings
from workers.cli.common import DataOption, JsonOption, print_json, print_line
from workers.cli.database import open_engine
from workers.cli.errors import CliError
from workers.runtime.imports import importing

_INSUFFICIENT_PRIVILEGE = "42501"


def migrate(
    *,
    data: DataOption = None,
    roles: Annotated[
        bool,
        typer.Option("--roles", help="Also create a group role per process, with the privileges it needs."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Upgrade the database schema to this release. Several hosts may run this command at the same time."""
    configure_logging(LogSettings.from_environment().log_level)
    with importing():
        from models.database.grants import create_roles
        from models.database.migrate import migrate as upgrade_schema

    with open_engine(data) as engine:
        created: list[str] = []
        if roles:
            try:
                with engine.begin() as connection:
                    created = create_roles(connection)
            except ProgrammingError as error:
                if sqlstate(error) != _INSUFFICIENT_PRIVILEGE:
                    raise
                raise CliError(
                    "the user of DATABASE_URL may not create roles: grant it CREATEROLE, or let an administrator run "
                    "`tocsin migrate --roles` once"
                ) from None
        before, now = upgrade_schema(engine)
    if as_json:
        print_json({"before": before, "now": now, "roles": created})
        return
    if before == now:
        print_line(f"the schema is already at {now}")
    else:
        print_line(f"the schema was upgraded from {before or 'nothing'} to {now}")
    if created:
        print_line(f"created {', '.join(created)}: grant each to the login role of its process")
