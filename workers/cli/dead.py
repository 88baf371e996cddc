"""`tocsin dead`: list, show, requeue and discard dead letters."""

from __future__ import annotations

from typing import Annotated

import typer

from models.operations.command_details import read_command
from models.operations.dead import DeadSelection, discard_dead, list_dead, list_dead_groups
from models.operations.keyset import Window
from models.operations.requeue import (
    DEFAULT_STOP_AFTER,
    list_operations,
    preview_requeue,
    read_operation,
    start_requeue,
    stop_operation,
)
from models.refusals import NotFound
from models.serializers.operations import BulkOperationJson
from workers.cli.commands import print_command
from workers.cli.common import DataOption, JsonOption, print_json, print_line
from workers.cli.errors import CliError
from workers.cli.operations import (
    LimitOption,
    ReasonOption,
    clean,
    group,
    operations,
    operator,
    parse_id,
    parse_number,
    print_table,
    short_time,
)

dead = group("List dead letters, and requeue or discard them.")

IdsArgument = Annotated[list[str] | None, typer.Argument(metavar="ID", help="Ids of dead commands.")]
FingerprintOption = Annotated[
    str | None, typer.Option("--fingerprint", metavar="F", help="All of a group: `tocsin dead list --group`.")
]
AllOption = Annotated[bool, typer.Option("--all", help="All dead commands.")]


@dead.command("list")
def list_(
    *,
    grouped: Annotated[bool, typer.Option("--group", help="By type and error.")] = False,
    organization: Annotated[str | None, typer.Option(metavar="SLUG", help="Only those of it.")] = None,
    type_: Annotated[str | None, typer.Option("--type", help="Only those of this type.")] = None,
    limit: LimitOption = 50,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """List dead letters, newest first."""
    empty = "no command is dead"
    with operations(data) as connection:
        if grouped:
            groups = list_dead_groups(connection, most=limit)
        else:
            letters = list_dead(connection, organization=organization, type_=type_, window=Window(limit=limit)).entities
    if as_json:
        print_json(groups if grouped else letters)
    elif grouped:
        group_rows = [
            (each["count"], each["fingerprint"], each["type"], short_time(each["lastAt"]), each["error"])
            for each in groups
        ]
        print_table(("COUNT", "FINGERPRINT", "TYPE", "LAST", "ERROR"), group_rows, empty=empty)
    else:
        rows = [
            (each["id"], short_time(each["diedAt"]), each["type"], each["subject"], each["error"]) for each in letters
        ]
        print_table(("ID", "DIED", "TYPE", "SUBJECT", "ERROR"), rows, empty=empty)


@dead.command("show")
def show(
    command_id: Annotated[str, typer.Argument(metavar="ID", help="The command's id.")],
    *,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a dead letter with its timeline."""
    with operations(data) as connection:
        try:
            command = read_command(connection, parse_id(command_id, "command"), with_texts=True)
        except NotFound:
            raise CliError(f"there is no command {command_id}: `tocsin dead list` shows the dead ones") from None
    if as_json:
        print_json(command)
    else:
        print_command(command)


@dead.command("requeue")
def requeue(
    ids: IdsArgument = None,
    *,
    fingerprint: FingerprintOption = None,
    all_: AllOption = False,
    reason: ReasonOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be requeued.")] = False,
    rate: Annotated[int | None, typer.Option(min=1, metavar="N", help="Commands per second at most.")] = None,
    stop_after: Annotated[
        int, typer.Option(min=1, metavar="N", help="Stop when this many have died again.")
    ] = DEFAULT_STOP_AFTER,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have dead commands applied again, at their place. A relay does it: `tocsin dead operation ID` follows it."""
    selection = _selection(ids, fingerprint, all_=all_)
    with operations(data) as connection:
        if dry_run:
            preview = preview_requeue(connection, selection)
        else:
            started = start_requeue(
                connection, selection, reason=reason, by=operator(), rate_per_second=rate, stop_after=stop_after
            )
    if as_json:
        print_json(preview if dry_run else started)
    elif dry_run:
        print_line(f"{preview['matching']} dead commands on {preview['subjects']} subjects would be requeued")
    else:
        print_line(_describe(started))


@dead.command("operation")
def operation(
    operation_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="The operation's id.")] = None,
    *,
    stop: Annotated[bool, typer.Option("--stop", help="Stop it.")] = False,
    reason: ReasonOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a requeue, or the latest ones, or stop one."""
    if operation_id is None and stop:
        raise typer.BadParameter("--stop needs the id of an operation")
    with operations(data) as connection:
        if operation_id is None:
            found = list_operations(connection)
        else:
            number = parse_number(operation_id, "an operation")
            try:
                found = [
                    stop_operation(connection, number, reason=reason, by=operator())
                    if stop
                    else read_operation(connection, number)
                ]
            except NotFound:
                raise CliError(f"there is no operation {operation_id}: `tocsin dead operation` lists them") from None
    if as_json:
        print_json(found if operation_id is None else found[0])
        return
    for each in found:
        print_line(_describe(each))


@dead.command("discard")
def discard(
    ids: IdsArgument = None,
    *,
    fingerprint: FingerprintOption = None,
    all_: AllOption = False,
    reason: ReasonOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be discarded.")] = False,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Discard dead commands for good: their callers read `discarded`."""
    selection = _selection(ids, fingerprint, all_=all_)
    with operations(data) as connection:
        if dry_run:
            preview = preview_requeue(connection, selection)
        else:
            done = discard_dead(connection, selection, reason=reason, by=operator())
    if as_json:
        print_json(preview if dry_run else done)
    elif dry_run:
        print_line(f"{preview['matching']} dead commands would be discarded")
    else:
        print_line(f"{done['discarded']} dead commands discarded")


def _selection(ids: list[str] | None, fingerprint: str | None, *, all_: bool) -> DeadSelection:
    if bool(ids) + (fingerprint is not None) + all_ != 1:
        raise typer.BadParameter("give ids, --fingerprint or --all, exactly one of them")
    parsed = tuple(parse_id(id_, "command: `tocsin dead list` shows them") for id_ in ids) if ids else None
    return DeadSelection(parsed, fingerprint, all_)


def _describe(each: BulkOperationJson) -> str:
    detail = f", {clean(each['detail'])}" if each.get("detail") else ""
    return (
        f"operation {each['id']}: {each['state']}, {each['requeued']} of {each['matching']} requeued,"
        f" {each['diedAgain']} died again{detail}"
    )
