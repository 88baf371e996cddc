"""What Prometheus Alertmanager says of a group of alerts, and the incident that follows it.

What is said is a state, not a change: said again it changes nothing, and what was missed is made up for by what is
said next.
"""

from __future__ import annotations

from models.enums import AlertState, IncidentStatus, StatusMethod
from models.policy import require_service
from models.refusals import FIELD_REQUIRED, InvalidFields
from tasks.commands.alertmanager import ReceiveAlerts
from workers.batch.context import CommandContext, CommandResult
from workers.batch.facts import LoadedProject
from workers.domain.incidents import NewIncident, change_status, create_incident


def receive_alerts(command: ReceiveAlerts, context: CommandContext) -> CommandResult:
    """Open the incident of the group, give it another status, or close it; what stands already is left alone."""
    require_service(context.actor)
    is_firing = command.state is AlertState.FIRING
    projects = _projects(command, context) if is_firing else []
    incident = context.facts.open_incidents_by_key.get((context.organization.id, command.dedup_key))
    if incident is None:
        return _open(command, context, projects) if is_firing else CommandResult(200)

    context.require_access(incident)
    status = IncidentStatus.from_severity(command.severity) if is_firing else IncidentStatus.CLOSED
    if status is not incident.status:
        change_status(incident, status, context, by=StatusMethod.RULE_TRIGGERED)
    return CommandResult(200, context.incident_json(incident))


def _open(command: ReceiveAlerts, context: CommandContext, projects: list[LoadedProject]) -> CommandResult:
    if not projects:
        raise InvalidFields({"project": [FIELD_REQUIRED]})
    began = command.starts_at or context.accepted_at
    opening = NewIncident(
        title=command.title,
        projects=projects,
        date_started=began,
        date_detected=began,
        status=IncidentStatus.from_severity(command.severity),
        dedup_key=command.dedup_key,
    )
    return CommandResult(201, context.incident_json(create_incident(opening, context)))


def _projects(command: ReceiveAlerts, context: CommandContext) -> list[LoadedProject]:
    """The project that the alerts name; a program reaches every one of its organization that is active."""
    if command.project is None:
        return []
    project = context.facts.find_active_project(context.organization.id, command.project)
    if project is None:
        raise InvalidFields({"project": ["Invalid project"]})
    return [project]
