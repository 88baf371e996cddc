"""The handler for Prometheus Alertmanager's notifications: an incident follows the state of its alert group.

Each notification contains the group's current state. Repeating a notification therefore changes nothing, and the next
one makes up for any that was lost.
"""

from __future__ import annotations

from typing import Final

from models.directory.policy_facts import NamedProject
from models.enums import AlertState, IncidentStatus, StatusMethod
from models.policy import require_service
from models.refusals import FIELD_REQUIRED, InvalidFields
from tasks.commands.alertmanager import ReceiveAlerts
from workers.batch import needs
from workers.batch.context import CommandContext, CommandResult
from workers.batch.handler import handles
from workers.domain.incidents import NewIncident, change_status, create_incident

SEVERITIES: Final = {"warning": IncidentStatus.WARNING, "critical": IncidentStatus.CRITICAL}
"""The incident status for each value of an alert's ``severity`` label. Any other value, or none, means ``OPEN``."""


@handles(ReceiveAlerts, needs.new_incident, needs.incident_of_key, needs.project)
def receive_alerts(command: ReceiveAlerts, context: CommandContext) -> CommandResult:
    """Open or close the alert group's incident, or change its status, so that it matches the group's state."""
    require_service(context.actor)
    is_firing = command.state is AlertState.FIRING
    projects = _projects(command, context) if is_firing else []
    incident = context.facts.open_incidents_by_key.get((context.organization.id, command.dedup_key))
    if incident is None:
        return _open(command, context, projects) if is_firing else CommandResult(200)

    context.require_access(incident)
    status = _status_of(command.severity) if is_firing else IncidentStatus.CLOSED
    if status is not incident.status:
        change_status(incident, status, context, by=StatusMethod.RULE_TRIGGERED)
    return CommandResult(200, context.incident_json(incident))


def _open(command: ReceiveAlerts, context: CommandContext, projects: list[NamedProject]) -> CommandResult:
    if not projects:
        raise InvalidFields({"project": [FIELD_REQUIRED]})
    # Alertmanager's clock may be ahead.
    started = min(command.starts_at or context.accepted_at, context.accepted_at)
    new = NewIncident(
        title=command.title,
        projects=projects,
        date_started=started,
        date_detected=started,
        status=_status_of(command.severity),
        dedup_key=command.dedup_key,
    )
    return CommandResult(201, context.incident_json(create_incident(new, context)))


def _projects(command: ReceiveAlerts, context: CommandContext) -> list[NamedProject]:
    """Return the project, if any, that the alerts name. A service has access to every active project.

    :raises InvalidFields: if the organization has no such active project.
    """
    if command.project is None:
        return []
    project = context.facts.find_active_project(context.organization.id, command.project)
    if project is None:
        raise InvalidFields({"project": ["Invalid project"]})
    return [project]


def _status_of(severity: str | None) -> IncidentStatus:
    return SEVERITIES.get(severity or "", IncidentStatus.OPEN)
