"""The operators' first page: whether anything is wrong, since when, what to do, and how the queues are doing."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

from gateway.http.responses import HttpResponse
from gateway.ops.console.advice import ADVICE, PAGE_NAMES
from gateway.ops.console.charts import DEFAULT_RANGE, RANGES, charts
from gateway.ops.console.operator import ConsoleHandler, Operator, console_page
from gateway.ops.login import START
from gateway.pages.request import PageRequest
from models.operations.series import read_series


async def show_overview(request: PageRequest, operator: Operator) -> HttpResponse:
    """Show the state of the whole system, also while the broker is away."""
    chosen = request.query.get("range", DEFAULT_RANGE)
    range_ = RANGES.get(chosen, RANGES[DEFAULT_RANGE])
    snapshot = await request.container.operations.snapshot()
    read = partial(read_series, minutes=range_.minutes, step_minutes=range_.step_minutes)
    series = await request.container.operations.read(read)
    return console_page(
        request,
        operator,
        "overview.html",
        overview=snapshot.overview,
        queues=snapshot.queues,
        advice=ADVICE,
        page_names=PAGE_NAMES,
        ranges=RANGES,
        range=range_,
        charts=charts(series, range_),
    )


PAGES: Final[Mapping[str, Mapping[str, ConsoleHandler]]] = {START: {"GET": show_overview}}
