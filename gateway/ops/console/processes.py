"""The processes of tocsin on every host: what each one does, and which ones are gone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

from gateway.http.responses import HttpResponse
from gateway.ops.console.operator import ConsoleHandler, Operator, console_page
from gateway.pages.request import PageRequest
from models.operations.processes import list_processes
from models.serializers.operations import ProcessState

SHOWN_IN_HAND: Final = 3
"""How many of the commands that a worker is applying are listed."""


async def show_workers(request: PageRequest, operator: Operator) -> HttpResponse:
    """Show the processes that have reported within the last hour."""
    processes = await request.container.operations.read(list_processes)
    counts = Counter(process["kind"] for process in processes if process["state"] is not ProcessState.GONE)
    return console_page(
        request, operator, "workers.html", processes=processes, counts=counts, shown_in_hand=SHOWN_IN_HAND
    )


PAGES: Final[Mapping[str, Mapping[str, ConsoleHandler]]] = {"/ops/workers/": {"GET": show_workers}}
