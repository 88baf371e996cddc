"""Handlers that subscribe people to incidents and unsubscribe them."""

from __future__ import annotations

from models.directory.policy_facts import actor_from_membership
from models.directory.tables import Person
from models.enums import CallerKind, SubscriptionReason
from models.incidents.incident import Incident
from models.policy import may_read, require_person
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
    """Unsubscribe a person from an incident. This succeeds even if the person is not subscribed.

    The system unsubscribes people who have lost access. It leaves those subscribed who have access again by now.
    """
    incident = context.require_incident(command.incident)
    require_person(context.actor)
    has_regained_access = context.actor.kind is CallerKind.SYSTEM and _has_access(context.author, incident, context)
    if context.is_subscribed(incident) and not has_regained_access:
        context.unsubscribe(incident, context.author.id)
        context.emit(incident, Unsubscribed(user=context.author.id))
    return CommandResult(200, {})


def _has_access(person: Person, incident: Incident, context: CommandContext) -> bool:
    member = context.facts.members.get((context.organization.id, person.id)) if person.is_active else None
    projects = (project.facts for project in context.facts.projects_of(incident))
    return may_read(actor_from_membership(member, user_id=person.id), context.organization, projects)
