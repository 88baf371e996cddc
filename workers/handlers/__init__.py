"""The handlers, one per command: plain functions from facts to changes and events. They perform no I/O."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from tasks.commands.base import Command
from workers.batch.fact_request import FactRequest, PendingCommand
from workers.batch.handler import CommandHandler
from workers.handlers import (
    alert_rules,
    alertmanager,
    chat_destinations,
    comments,
    incidents,
    mutes,
    notifications,
    observations,
    preferences,
    snoozes,
    subscriptions,
    triggers,
    webhooks,
)

_MODULES: Final = (
    chat_destinations,
    alert_rules,
    alertmanager,
    comments,
    incidents,
    mutes,
    notifications,
    observations,
    preferences,
    snoozes,
    subscriptions,
    triggers,
    webhooks,
)

HANDLERS: Final[dict[str, CommandHandler[Any]]] = {
    handler.command_class.name: handler
    for module in _MODULES
    for handler in vars(module).values()
    if isinstance(handler, CommandHandler)
}
"""The handler for every command, by the command's name on the wire."""


def request_facts(batch: Iterable[PendingCommand[Command]]) -> FactRequest:
    """Return a request for the facts that these commands' handlers need."""
    request = FactRequest()
    for pending in batch:
        request.add_command(pending.row)
        for need in HANDLERS[pending.row.type].needs:
            need(request, pending)
    return request
