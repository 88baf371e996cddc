"""`tocsin commands`: the ledger of accepted commands and their outcomes."""

from __future__ import annotations

import re
from typing import Annotated, Any
from uuid import UUID

import typer
from sqlalchemy import Select, select

from models.directory.tables import organizations
from models.enums import CommandState
from models.messaging.command_ledger import commands as ledger
from models.serializers.commands import command_json
from models.timestamps import iso
from workers.cli.common import DataOption, JsonOption, print_json, print_line
from workers.cli.database import transaction
from workers.cli.errors import CliError

commands = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

_UUID = re.compile(r"[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}")


@commands.command("list")
def list_(
    *,
    state: Annotated[CommandState | None, typer.Option(help="Only commands in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Maximum number of commands.")] = 50,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """List commands, newest first."""
    query = _select_commands().order_by(ledger.c.seq.desc()).limit(limit)
    if state is not None:
        query = query.where(ledger.c.state == state)
    with transaction(data) as connection:
        rows = [dict(row) for row in connection.execute(query).mappings()]
    if as_json:
        print_json([_json(row) for row in rows])
        return
    for row in rows:
        status = "" if row["outcome_status"] is None else f"  {row['outcome_status']}"
        print_line(f"{row['id']}  {iso(row['accepted_at'])}  {row['type']}  {row['subject']}  {row['state']}{status}")


@commands.command("show")
def show(
    command_id: Annotated[str, typer.Argument(metavar="ID", help="The command's id.")],
    *,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one command with its outcome."""
    if not _UUID.fullmatch(command_id):
        raise CliError(f"{command_id} is not a command id: `tocsin commands list` shows them")
    with transaction(data) as connection:
        row = connection.execute(_select_commands().where(ledger.c.id == UUID(command_id))).mappings().one_or_none()
    if row is None:
        raise CliError(f"there is no command {command_id}: `tocsin commands list` shows the newest ones")
    if as_json:
        print_json(_json(dict(row)))
        return
    for name, value in _json(dict(row)).items():
        print_line(f"{name:<12}  {'' if value is None else value}")


def _select_commands() -> Select[Any]:
    return select(ledger, organizations.c.slug.label("organization")).join(
        organizations, organizations.c.id == ledger.c.organization_id, isouter=True
    )


def _json(row: dict[str, Any]) -> dict[str, Any]:
    return command_json(row, organization=row["organization"]) | {"subject": row["subject"], "caller": row["caller"]}
