"""The handler that replaces a person's preferences for messages."""

from __future__ import annotations

from collections.abc import Iterable

from models.directory.policy_facts import actor_from_membership
from models.enums import CallerKind
from models.notifications.preferences import Preferences
from models.policy import may_read, require_person
from models.refusals import InvalidFields
from models.serializers.notifications import preferences_json
from tasks.commands.preferences import ReplacePreferences
from workers.batch import needs
from workers.batch.context import CommandContext, CommandResult
from workers.batch.handler import handles


@handles(ReplacePreferences, needs.preferences, needs.muted_incidents)
def replace_preferences(command: ReplacePreferences, context: CommandContext) -> CommandResult:
    """Replace the author's preferences and, if they are listed, the incidents that the author has muted without end.

    Mutes with an end stay as they are, and so do mutes of incidents that the author cannot read now.

    :raises StaleVersion: if the preferences have changed since the author read them.
    :raises InvalidFields: if the author wants to mute an incident that does not exist or that they may not read.
    """
    require_person(context.actor)
    facts = context.facts.preferences[context.author.id]
    context.require_version(facts.version)
    if command.muted_incidents is not None:
        _require_readable(command.muted_incidents, context)
        endless = {id_ for id_, until in facts.mutes.items() if until is None}
        for id_ in sorted(endless - set(command.muted_incidents)):
            if _is_readable(id_, context):
                context.unmute(id_)
        for id_ in command.muted_incidents:
            if id_ not in endless:
                context.mute(id_, None)
    context.replace_preferences(command.document())
    muted = sorted(id_ for id_, until in facts.mutes.items() if until is None and _is_readable(id_, context))
    return CommandResult(200, preferences_json(Preferences.from_document(command.document()), muted))


def _require_readable(ids: Iterable[int], context: CommandContext) -> None:
    # An incident out of reach is answered as one that does not exist.
    errors = {
        str(index): [f"Incident does not exist: {id_}"]
        for index, id_ in enumerate(ids)
        if not _is_readable(id_, context)
    }
    if errors:
        raise InvalidFields({"mutedIncidents": errors})


def _is_readable(incident_id: int, context: CommandContext) -> bool:
    incident = context.facts.preferences[context.author.id].incidents.get(incident_id)
    organization = context.facts.organizations.get(incident.organization_id) if incident else None
    if incident is None or organization is None:
        return False
    # A service acts in its own organization only.
    if context.actor.kind is CallerKind.SERVICE and context.actor.organization_id != organization.id:
        return False
    member = context.facts.members.get((organization.id, context.author.id))
    return may_read(actor_from_membership(member, user_id=context.author.id), organization, incident.projects)
