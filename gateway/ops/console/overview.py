"""The operators' first page: whether anything is wrong, since when, and how the queues are doing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.http.responses import HttpResponse
from gateway.ops.console.operator import ConsoleHandler, Operator, console_page
from gateway.ops.login import START
from gateway.pages.request import PageRequest

REFRESH_SECONDS: Final = 10
"""After how many seconds the page loads itself again. It works without JavaScript."""


async def show_overview(request: PageRequest, operator: Operator) -> HttpResponse:
    """Show the state of the whole system, also while the broker is away."""
    snapshot = await request.container.operations.snapshot()
    return console_page(
        request,
        operator,
        "overview.html",
        overview=snapshot.overview,
        queues=snapshot.queues,
        refresh=REFRESH_SECONDS,
    )


PAGES: Final[Mapping[str, Mapping[str, ConsoleHandler]]] = {START: {"GET": show_overview}}
