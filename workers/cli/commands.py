"""`tocsin commands`: search the ledger of accepted commands, and show one with its timeline."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from models.enums import CommandState, Lane
from models.operations.command_details import read_command
from models.operations.commands import CommandFilters, search_commands
from models.operations.keyset import Window
from models.refusals import NotFound
from models.serializers.operations import CommandDetailJson
from workers.cli.common import DataOption, JsonOption, print_json, print_line
from workers.cli.errors import CliError
from workers.cli.operations import (
    LimitOption,
    clean,
    group,
    operations,
    parse_id,
    parse_time,
    print_facts,
    print_table,
    short_time,
)

commands = group("Search the ledger of accepted commands.")


@commands.command("list")
def list_(
    *,
    organization: Annotated[str | None, typer.Option(metavar="SLUG", help="Only commands of it.")] = None,
    incident: Annotated[int | None, typer.Option(help="Only commands on it; needs --organization.")] = None,
    user: Annotated[str | None, typer.Option(help="Only commands by this user: a username or an id.")] = None,
    type_: Annotated[str | None, typer.Option("--type", help="Only commands of this type.")] = None,
    state: Annotated[CommandState | None, typer.Option(help="Only commands in this state.")] = None,
    queue: Annotated[Lane | None, typer.Option(help="Only commands of this queue.")] = None,
    from_: Annotated[str | None, typer.Option("--from", metavar="T", help="Only those accepted since.")] = None,
    to: Annotated[str | None, typer.Option("--to", metavar="T", help="Only those accepted until.")] = None,
    query: Annotated[
        str | None, typer.Option(help="A command id, an idempotency key, an event id, or a trace id.")
    ] = None,
    limit: LimitOption = 50,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """List commands, newest first."""
    filters = CommandFilters(
        organization=organization,
        incident=incident,
        user=user,
        type=type_,
        state=state,
        queue=queue,
        accepted_from=None if from_ is None else parse_time(from_, "--from"),
        accepted_to=None if to is None else parse_time(to, "--to"),
        query=query,
    )
    with operations(data) as connection:
        listing = search_commands(connection, filters, Window(limit=limit))
        found = listing.entities
        while listing.stopped_at is not None and len(found) < limit:
            listing = search_commands(connection, filters, Window(limit=limit - len(found), key=listing.stopped_at))
            found += listing.entities
    if as_json:
        print_json(found)
        return
    print_table(
        ("ID", "ACCEPTED", "TYPE", "SUBJECT", "STATE", "STATUS", "HELD BY"),
        [
            (
                command["id"],
                short_time(command["acceptedAt"]),
                command["type"],
                command["subject"],
                command["status"],
                command["outcome"] and command["outcome"]["status"],
                command["heldBy"] and f"{command['heldBy']['scope']} {command['heldBy']['target']}",
            )
            for command in found
        ],
        empty="no command matches",
    )


@commands.command("show")
def show(
    command_id: Annotated[str, typer.Argument(metavar="ID", help="The command's id.")],
    *,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one command with its outcome and its timeline."""
    id_ = parse_id(command_id, "command: `tocsin commands list` shows them")
    with operations(data) as connection:
        try:
            command = read_command(connection, id_, with_texts=True)
        except NotFound:
            raise CliError(f"there is no command {command_id}: `tocsin commands list` shows the newest ones") from None
    if as_json:
        print_json(command)
    else:
        print_command(command)


def print_command(command: CommandDetailJson) -> None:
    """Print a command with its timeline."""
    hold = command["heldBy"]
    print_facts(
        {
            "id": command["id"],
            "type": command["type"],
            "status": command["status"],
            "organization": command["organization"],
            "subject": command["subject"],
            "queue": command["lane"],
            "actor": command["actor"] and f"{command['actor']['type']} {command['actor']['name']}",
            "attempts": command["attempts"],
            "held by": hold and f"hold {hold['hold']}, {hold['scope']} {hold['target']}: {hold['reason']}",
            "error": command["error"],
            "outcome": command["outcome"] and json.dumps(command["outcome"]),
            "payload": json.dumps(command["payload"]),
            "key": command["idempotencyKey"],
            "trace": command["traceId"],
        }
    )
    print_line()
    for entry in command["timeline"]:
        print_line(f"{entry['at']:<27}  {_after(entry['afterMs']):>9}  {entry['step']:<14}  {clean(entry['detail'])}")


def _after(milliseconds: float) -> str:
    return f"+{milliseconds:.0f} ms" if milliseconds < 10_000 else f"+{milliseconds / 1000:.0f} s"
