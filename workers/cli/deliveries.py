"""`tocsin deliveries`: list and show messages to people and other services, and retry them."""

from __future__ import annotations

from typing import Annotated

import typer

from models.enums import Channel
from models.notifications.delivery import DeliveryState
from models.operations.deliveries import DeliveryFilters, list_deliveries, read_delivery, retry_delivery
from models.operations.keyset import Window
from models.refusals import NotFound
from models.serializers.operations import DeliveryJson
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
    print_facts,
    print_table,
    short_time,
)

deliveries = group("List and retry messages to people and other services.")


@deliveries.command("list")
def list_(
    *,
    organization: Annotated[str | None, typer.Option(metavar="SLUG", help="Only those of it.")] = None,
    incident: Annotated[int | None, typer.Option(help="Only those about it; needs --organization.")] = None,
    user: Annotated[str | None, typer.Option(help="Only those to this user: a username or an id.")] = None,
    channel: Annotated[Channel | None, typer.Option(help="Only those of this channel.")] = None,
    state: Annotated[DeliveryState | None, typer.Option(help="Only those in this state.")] = None,
    limit: LimitOption = 50,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """List deliveries, newest first."""
    filters = DeliveryFilters(organization, incident, user, channel, state)
    with operations(data) as connection:
        found = list_deliveries(connection, filters, Window(limit=limit)).entities
    if as_json:
        print_json(found)
        return
    rows = [
        (
            each["id"],
            each["channel"],
            each["target"],
            each["event"]["type"],
            each["state"],
            len(each["attempts"]),
            short_time(each["dueAt"]),
        )
        for each in found
    ]
    print_table(("ID", "CHANNEL", "TO", "EVENT", "STATE", "ATTEMPTS", "DUE"), rows, empty="no delivery matches")


@deliveries.command("show")
def show(
    delivery_id: Annotated[str, typer.Argument(metavar="ID", help="The delivery's id.")],
    *,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one delivery with its attempts."""
    with operations(data) as connection:
        try:
            found = read_delivery(connection, parse_id(delivery_id, "delivery"))
        except NotFound:
            raise CliError(_unknown(delivery_id)) from None
    if as_json:
        print_json(found)
        return
    _print_delivery(found)


@deliveries.command("retry")
def retry(
    delivery_id: Annotated[str, typer.Argument(metavar="ID", help="The delivery's id.")],
    *,
    reason: ReasonOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have a delivery sent now, whatever its state."""
    with operations(data) as connection:
        try:
            found = retry_delivery(connection, parse_id(delivery_id, "delivery"), reason=reason, by=operator())
        except NotFound:
            raise CliError(_unknown(delivery_id)) from None
    if as_json:
        print_json(found)
    else:
        print_line(f"delivery {found['id']} is due now")


def _print_delivery(found: DeliveryJson) -> None:
    print_facts(
        {
            "id": found["id"],
            "channel": found["channel"],
            "organization": found["organization"],
            "incident": found["incident"],
            "to": found["target"],
            "event": found["event"]["type"],
            "state": found["state"],
            "due": found["dueAt"],
            "detail": found["detail"],
        }
    )
    for attempt in found["attempts"]:
        status = "no answer" if attempt["status"] is None else f"status {attempt['status']}"
        error = f"  {clean(attempt['error'])}" if attempt["error"] else ""
        print_line(f"{attempt['at']}  {attempt['durationMs']} ms  {status}{error}")


def _unknown(delivery_id: str) -> str:
    return f"there is no delivery {delivery_id}: `tocsin deliveries list` shows the newest ones"
