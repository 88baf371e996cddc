"""Who hears of an incident."""

from __future__ import annotations

from models.enums import SubscriptionReason
from models.policy import require_person
from tasks.commands.subscriptions import Subscribe, Unsubscribe
from tasks.events import Subscribed, Unsubscribed
from workers.batch.context import CommandContext, CommandResult


def subscribe(command: Subscribe, context: CommandContext) -> CommandResult:
    """The person hears of the incident from now on; who did already keeps the reason they had."""
    incident = context.require_incident(command.incident)
    require_person(context.actor)
    if not context.is_subscribed(incident):
        context.subscribe(incident, [context.author.id], SubscriptionReason.SUBSCRIBED)
        context.emit(incident, Subscribed(user=context.author.id))
    return CommandResult(201, {})


def unsubscribe(command: Unsubscribe, context: CommandContext) -> CommandResult:
    """The person hears no more of the incident; no matter whether they did."""
    incident = context.require_incident(command.incident)
    require_person(context.actor)
    if context.is_subscribed(incident):
        context.unsubscribe(incident, context.author.id)
        context.emit(incident, Unsubscribed(user=context.author.id))
    return CommandResult(200, {})
