"""Handlers that open an incident, change its status and mark it as seen."""

from __future__ import annotations

from models.alert_rules.alert_rule import AlertRule
from models.directory.policy_facts import NamedProject
from models.enums import IncidentStatus, StatusMethod, SubscriptionReason
from models.policy import has_project_access, is_project_member, require_person, require_status_scope
from models.refusals import Conflict, Forbidden, ForbiddenCode, InvalidFields
from models.types import JSON
from tasks.commands.incidents import MarkSeen, OpenIncident, SetStatus
from tasks.events import Seen
from workers.batch import needs
from workers.batch.context import CommandContext, CommandResult
from workers.batch.handler import handles
from workers.domain.incidents import NewIncident, change_status, create_incident
from workers.domain.rule_actions import resolve_manual_close


@handles(OpenIncident, needs.new_incident, needs.incident_of_key, needs.projects, needs.rule)
def open_incident(command: OpenIncident, context: CommandContext) -> CommandResult:
    """Open an incident, or return the open one with the same deduplication key."""
    command.require_consistency()
    projects, rule = _projects_and_rule(command, context)
    if command.dedup_key is not None:
        existing = context.facts.open_incidents_by_key.get((context.organization.id, command.dedup_key))
        if existing is not None:
            context.require_access(existing)
            return CommandResult(200, context.incident_json(existing))

    started = command.date_started or context.accepted_at
    new = NewIncident(
        title=command.title,
        projects=projects,
        date_started=started,
        date_detected=started,
        status=IncidentStatus(command.status),
        dedup_key=command.dedup_key,
        rule=rule,
    )
    incident = create_incident(new, context)
    return CommandResult(201, context.incident_json(incident))


@handles(SetStatus, needs.incident, needs.incident_details, needs.action_recipients)
def set_status(command: SetStatus, context: CommandContext) -> CommandResult:
    """Close or reopen an incident, or change its severity. Setting its current status again changes nothing."""
    incident = context.require_incident(command.incident)
    require_person(context.actor)
    new = IncidentStatus(command.status)
    require_status_scope(context.actor, context.organization, new)
    context.require_version(incident.version)
    if new is incident.status:
        return CommandResult(200, context.incident_json(incident))
    if new is not IncidentStatus.CLOSED and context.facts.other_holder_of_key(incident):
        raise Conflict("Another open incident has this one's dedupKey.")

    by = StatusMethod.MANUAL
    if not context.actor.is_person:
        # The system closes the incidents of a rule that was changed or deleted, and those of alerts that are stale.
        by = StatusMethod.RULE_TRIGGERED if incident.alert_rule_id is None else StatusMethod.RULE_UPDATED
    change = change_status(incident, new, context, by=by, comment=command.comment)
    if context.actor.is_person:
        reason = SubscriptionReason.CLOSED if new is IncidentStatus.CLOSED else SubscriptionReason.SUBSCRIBED
        context.subscribe(incident, [context.author.id], reason)
    if new is IncidentStatus.CLOSED:
        resolve_manual_close(incident, change, context)
    return CommandResult(200, context.incident_json(incident))


@handles(MarkSeen, needs.incident)
def mark_seen(command: MarkSeen, context: CommandContext) -> CommandResult:
    """Record that a person has seen the incident, if the person is a member of one of its projects."""
    incident = context.require_incident(command.incident)
    require_person(context.actor)
    person = context.author
    if any(is_project_member(context.actor, project.facts) for project in context.facts.projects_of(incident)):
        context.facts.record_seen(incident, person, context.accepted_at)
        context.changes.seen[incident.id, person.id] = context.accepted_at
        context.emit(incident, Seen(user=person.id))
    return CommandResult(201, {})


def _projects_and_rule(command: OpenIncident, context: CommandContext) -> tuple[list[NamedProject], AlertRule | None]:
    errors: dict[str, JSON] = {}
    found = [
        context.facts.find_active_project(context.organization.id, slug) for slug in dict.fromkeys(command.projects)
    ]
    projects = [project for project in found if project is not None]
    rule = None if command.alert_rule is None else context.find_rule(command.alert_rule)
    if len(projects) != len(found):
        errors["projects"] = ["Invalid project"]
    if command.alert_rule is not None and (rule is None or not context.can_read_rule(rule)):
        errors["alertRule"] = ["Invalid alert rule"]
    if errors:
        raise InvalidFields(errors)
    if not all(has_project_access(context.actor, context.organization, project.facts) for project in projects):
        raise Forbidden(code=ForbiddenCode.NO_PROJECT_ACCESS)
    return projects, rule
