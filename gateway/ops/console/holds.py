"""Holds: what is held, by whom, why and until when; placing and releasing them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.engine import Connection

from gateway.http.responses import HttpResponse
from gateway.ops.console.operator import ConsoleHandler, Operator, console_page
from gateway.pages.page import refusal_text
from gateway.pages.request import PageRequest
from models.directory.tables import organizations
from models.enums import Lane
from models.messaging.hold import HoldScope
from models.operations.holds import HELD_CHANNELS, list_holds, place_hold, read_hold, release_hold
from models.refusals import Conflict, InvalidFields, NotFound
from models.serializers.operations import HoldJson
from tasks.commands.catalog import CATALOG
from tasks.commands.fields import identifier

PATH: Final = "/ops/holds/"

SCOPES: Final[Mapping[str, str]] = {
    HoldScope.QUEUE: "a queue",
    HoldScope.TYPE: "a type of command",
    HoldScope.CHANNEL: "a channel of delivery",
    HoldScope.ORGANIZATION: "an organization",
}

DURATIONS: Final[Mapping[str, str]] = {
    "15": "after 15 minutes",
    "60": "after 1 hour",
    "240": "after 4 hours",
    "1440": "after 1 day",
    "": "never: someone has to release it",
}
"""When a hold ends by itself: minutes, and what they are called."""

DEFAULT_DURATION: Final = "60"

NOT_A_DURATION: Final = "Choose one of these."
NOTICES: Final[Mapping[str, str]] = {
    "placed": "The hold is in force for everything that begins from now on.",
    "released": "The hold is released. What waited goes on in its order.",
}
MAX_ORGANIZATIONS: Final = 200
"""How many organizations the form suggests."""


async def show_holds(request: PageRequest, operator: Operator) -> HttpResponse:
    """Show the holds in force, and the form to place one. ``scope`` and ``target`` in the address fill it in."""
    values = {name: request.query.get(name, "") for name in ("scope", "target")} | {"minutes": DEFAULT_DURATION}
    return await _page(request, operator, values, notice=NOTICES.get(request.query.get("done", "")))


async def place(request: PageRequest, operator: Operator) -> HttpResponse:
    """Place a hold, or show what is wrong with the form."""
    values = {name: request.field(name) for name in ("scope", "target", "minutes", "reason")}
    if values["minutes"] not in DURATIONS:
        return await _page(request, operator, values, status=400, errors={"minutes": NOT_A_DURATION})
    minutes = values["minutes"]
    hold = partial(
        place_hold,
        scope=values["scope"],
        target=values["target"].strip(),
        reason=values["reason"],
        by=operator.name,
        known_types=frozenset(CATALOG),
        release_at=datetime.now(UTC) + timedelta(minutes=int(minutes)) if minutes else None,
    )
    try:
        await request.container.operations.write(hold)
    except InvalidFields as refusal:
        errors = {name: refusal_text(texts) for name, texts in refusal.body.items()}
        return await _page(request, operator, values, status=refusal.status, errors=errors)
    except Conflict as refusal:
        return await _page(
            request, operator, values, status=refusal.status, errors={"target": refusal_text(refusal.body)}
        )
    return request.site.redirect(f"{PATH}?done=placed")


async def show_hold(request: PageRequest, operator: Operator) -> HttpResponse:
    """Show a hold in force, and the form to release it."""
    return _release_page(request, operator, await _hold(request))


async def release(request: PageRequest, operator: Operator) -> HttpResponse:
    """Release a hold, or show what is wrong with the form."""
    hold, reason = await _hold(request), request.field("reason")
    change = partial(release_hold, hold_id=int(hold["id"]), reason=reason, by=operator.name)
    try:
        await request.container.operations.write(change)
    except InvalidFields as refusal:
        return _release_page(request, operator, hold, refusal.status, reason, refusal_text(refusal.body))
    return request.site.redirect(f"{PATH}?done=released")


PAGES: Final[Mapping[str, Mapping[str, ConsoleHandler]]] = {
    PATH: {"GET": show_holds, "POST": place},
    f"{PATH}{{hold}}/": {"GET": show_hold, "POST": release},
}


async def _hold(request: PageRequest) -> HoldJson:
    id_ = identifier(request.parameters["hold"])
    if id_ is None:
        raise NotFound
    return await request.container.operations.read(partial(read_hold, hold_id=id_))


def _release_page(
    request: PageRequest,
    operator: Operator,
    hold: HoldJson,
    status: int = 200,
    reason: str = "",
    wrong_reason: str | None = None,
) -> HttpResponse:
    return console_page(
        request, operator, "hold.html", status, hold=hold, scopes=SCOPES, reason=reason, wrong_reason=wrong_reason
    )


async def _page(
    request: PageRequest,
    operator: Operator,
    values: Mapping[str, str],
    *,
    status: int = 200,
    errors: Mapping[str, str] | None = None,
    notice: str | None = None,
) -> HttpResponse:
    def read(connection: Connection) -> tuple[list[HoldJson], list[str]]:
        query = select(organizations.c.slug).order_by(organizations.c.slug).limit(MAX_ORGANIZATIONS)
        return list_holds(connection), list(connection.execute(query).scalars())

    holds, slugs = await request.container.operations.read(read)
    facts: dict[str, Any] = {
        "holds": holds,
        "scopes": SCOPES,
        "durations": DURATIONS,
        "targets": [*Lane, *HELD_CHANNELS, *sorted(CATALOG), *slugs],
        "values": {"reason": "", **values},
        "errors": dict.fromkeys(values) | {"reason": None} | dict(errors or {}),
        "notice": notice,
    }
    return console_page(request, operator, "holds.html", status, **facts)
