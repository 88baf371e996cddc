"""Handlers that subscribe people to incidents and unsubscribe them."""

from __future__ import annotations

from models.enums import SubscriptionReason
from models.policy import require_person
from tasks.commands.subscriptions import Subscribe, Unsubscribe
from tasks.events import Subscribed, Unsubscribed
from workers.batch import needs
from workers.batch.context import CommandContext, CommandResult
from workers.batch.handler import handles


@handles(Subscribe, needs.incident, needs.incident_details)
def subscribe(command: Subscribe, context: CommandContext) -> CommandResult:
    """Subscribe a person to an incident. An existing subscription keeps its reason."""
    incident = context.require_incident(command.incident)
    require_person(context.actor)
    if not context.is_subscribed(incident):
        context.subscribe(incident, [context.author.id], SubscriptionReason.SUBSCRIBED)
        context.emit(incident, Subscribed(user=context.author.id))
    return CommandResult(201, {})


@handles(Unsubscribe, needs.incident, needs.incident_details)
def unsubscribe(command: Unsubscribe, context: CommandContext) -> CommandResult:
    """Unsubscribe a person from an incident. This succeeds even if the person is not subscribed."""
    incident = context.require_incident(command.incident)
    require_person(context.actor)
    if context.is_subscribed(incident):
        context.unsubscribe(incident, context.author.id)
        context.emit(incident, Unsubscribed(user=context.author.id))
    return CommandResult(200, {})
