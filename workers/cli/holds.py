"""`tocsin hold`, `tocsin holds` and `tocsin release`: stop and release queues, types, channels and organizations."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from models.messaging.hold import HoldScope
from models.operations.holds import list_holds, place_hold, release_hold
from models.refusals import NotFound
from tasks.commands.catalog import CATALOG
from workers.cli.common import DataOption, JsonOption, print_json, print_line
from workers.cli.errors import CliError
from workers.cli.operations import (
    ReasonOption,
    clean,
    operations,
    operator,
    parse_duration,
    parse_number,
    parse_time,
    print_table,
    short_time,
)


def hold(
    scope: Annotated[HoldScope, typer.Argument(metavar="SCOPE", help="queue, type, channel or organization.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="Its name, such as bulk or comment.post.")],
    *,
    reason: ReasonOption = None,
    until: Annotated[str | None, typer.Option(metavar="T", help="When it ends by itself.")] = None,
    for_: Annotated[str | None, typer.Option("--for", metavar="30m", help="After what time it ends by itself.")] = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Hold commands of a queue, a type or an organization, or deliveries of a channel, until they are released."""
    if until is not None and for_ is not None:
        raise typer.BadParameter("give --until or --for, not both")
    release_at = None if until is None else parse_time(until, "--until")
    if for_ is not None:
        release_at = datetime.now(UTC) + parse_duration(for_, "--for")
    with operations(data) as connection:
        placed = place_hold(
            connection,
            scope=scope,
            target=target,
            reason=reason,
            by=operator(),
            known_types=frozenset(CATALOG),
            release_at=release_at,
        )
    if as_json:
        print_json(placed)
        return
    until_text = f"until {short_time(placed['releaseAt'])}" if placed["releaseAt"] else "until it is released"
    print_line(
        f"hold {placed['id']}: {placed['scope']} {clean(target)} is held {until_text}, {placed['waiting']} waiting"
    )


def holds(*, data: DataOption = None, as_json: JsonOption = False) -> None:
    """List the holds in force."""
    with operations(data) as connection:
        found = list_holds(connection)
    if as_json:
        print_json(found)
        return
    rows = [
        (
            each["id"],
            each["scope"],
            each["target"],
            each["waiting"],
            short_time(each["since"]),
            short_time(each["releaseAt"]),
            each["by"],
            each["reason"],
        )
        for each in found
    ]
    columns = ("ID", "SCOPE", "TARGET", "WAITING", "SINCE", "UNTIL", "BY", "REASON")
    print_table(columns, rows, empty="nothing is held")


def release(
    hold_id: Annotated[str, typer.Argument(metavar="ID", help="The hold's id: `tocsin holds` shows it.")],
    *,
    reason: ReasonOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Release a hold: what waited goes on in its order."""
    number = parse_number(hold_id, "a hold: `tocsin holds` shows them")
    with operations(data) as connection:
        try:
            release_hold(connection, number, reason=reason, by=operator())
        except NotFound:
            raise CliError(f"no hold {hold_id} is in force: `tocsin holds` lists them") from None
    if as_json:
        print_json({"released": hold_id})
    else:
        print_line(f"hold {hold_id} is released")
