"""Handlers that mute an incident for one person, and that end that."""

from __future__ import annotations

from models.incidents.incident import Incident
from models.policy import require_person
from models.refusals import NotFound
from models.serializers.notifications import mute_json
from tasks.commands.mutes import MuteIncident, UnmuteIncident
from workers.batch import needs
from workers.batch.context import CommandContext, CommandResult
from workers.batch.handler import handles


@handles(MuteIncident, needs.incident, needs.preferences)
def mute_incident(command: MuteIncident, context: CommandContext) -> CommandResult:
    """Mute an incident for the author, until a given time or without end. A mute in force gets the new end."""
    incident = _require_incident(command.incident, context)
    preferences = context.facts.preferences[context.author.id]
    is_muted = incident.id in preferences.mutes
    earlier = preferences.mutes.get(incident.id)
    if not is_muted or earlier != command.until:
        context.mute(incident.id, command.until)
    was_in_force = is_muted and (earlier is None or earlier > context.accepted_at)
    return CommandResult(200 if was_in_force else 201, mute_json(command.until))


@handles(UnmuteIncident, needs.incident, needs.preferences)
def unmute_incident(command: UnmuteIncident, context: CommandContext) -> CommandResult:
    """Unmute an incident for the author. This succeeds even if it is not muted."""
    incident = _require_incident(command.incident, context)
    if incident.id in context.facts.preferences[context.author.id].mutes:
        context.unmute(incident.id)
    return CommandResult(204)


def _require_incident(reference: str, context: CommandContext) -> Incident:
    # The command's subject is the person and not the incident: nothing about the incident changes.
    incident = context.facts.find_incident(context.organization.id, reference)
    if incident is None:
        raise NotFound
    context.require_access(incident)
    require_person(context.actor)
    return incident
