"""The queues: whether each one moves, since when it does not, who holds it, and the way to hold it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.http.responses import HttpResponse
from gateway.ops.console.operator import ConsoleHandler, Operator, console_page
from gateway.pages.request import PageRequest
from models.serializers.operations import QueueState

STATES: Final[Mapping[QueueState, str]] = {
    QueueState.RUNNING: "Workers consume it.",
    QueueState.HELD: "It is held.",
    QueueState.NO_CONSUMER: (
        "No worker has consumed its canaries for a while: start one with tocsin worker --lanes, or see on Workers"
        " whether one that should be there is gone."
    ),
    QueueState.STALLED: (
        "Commands are due and no worker applies them: see on Workers what has been in hand for long, then restart"
        " that worker."
    ),
    QueueState.UNKNOWN: (
        "No canary has been sent to it yet, so nobody can tell whether it is consumed. A relay sends them."
    ),
}
"""What each state means, and what to do."""


async def show_queues(request: PageRequest, operator: Operator) -> HttpResponse:
    """Show every queue, also while the broker is away."""
    snapshot = await request.container.operations.snapshot()
    return console_page(
        request,
        operator,
        "queues.html",
        queues=snapshot.queues,
        broker=snapshot.overview["broker"],
        states=STATES,
    )


PAGES: Final[Mapping[str, Mapping[str, ConsoleHandler]]] = {"/ops/queues/": {"GET": show_queues}}
