"""One handler per command: a plain function from facts to changes and events. It neither queries nor publishes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from tasks.commands.base import Command
from workers.batch.fact_request import FactRequest, PendingCommand
from workers.batch.handler import CommandHandler
from workers.handlers import (
    alert_rules,
    alertmanager,
    comments,
    incidents,
    notifications,
    observations,
    snoozes,
    subscriptions,
    triggers,
)

_MODULES: Final = (
    alert_rules,
    alertmanager,
    comments,
    incidents,
    notifications,
    observations,
    snoozes,
    subscriptions,
    triggers,
)

HANDLERS: Final[dict[str, CommandHandler[Any]]] = {
    handler.command_class.name: handler
    for module in _MODULES
    for handler in vars(module).values()
    if isinstance(handler, CommandHandler)
}
"""The handler of every command, by the command's name on the wire."""


def request_facts(batch: Iterable[PendingCommand[Command]]) -> FactRequest:
    """Return the facts that the handlers of these commands need."""
    request = FactRequest()
    for pending in batch:
        request.add_command(pending.row)
        for need in HANDLERS[pending.row.type].needs:
            need(request, pending)
    return request
