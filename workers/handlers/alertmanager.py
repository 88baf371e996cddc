"""The handler for Prometheus Alertmanager's notifications: an incident follows the state of its alert group.

Each notification contains the group's current state. Repeating a notification therefore changes nothing, and the next
one makes up for any that was lost.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from models.directory.policy_facts import NamedProject
from models.enums import AlertState, IncidentStatus, StatusMethod
from models.incidents.incident import Incident
from models.policy import require_service
from models.refusals import FIELD_REQUIRED, InvalidFields
from tasks.commands.alertmanager import ReceiveAlerts
from workers.batch import needs
from workers.batch.context import CommandContext, CommandResult
from workers.batch.handler import handles
from workers.domain.incidents import NewIncident, change_status, create_incident

REOPENING_PERIOD: Final = timedelta(seconds=60)
"""How long after Alertmanager has closed an incident its group reopens it, instead of opening another one."""

SEVERITIES: Final = {"warning": IncidentStatus.WARNING, "critical": IncidentStatus.CRITICAL}
"""The incident status for each value of an alert's ``severity`` label. Any other value, or none, means ``OPEN``."""


@handles(
    ReceiveAlerts,
    needs.new_incident,
    needs.incident_of_key,
    needs.closed_incident_of_key,
    needs.project,
    needs.default_project,
)
def receive_alerts(command: ReceiveAlerts, context: CommandContext) -> CommandResult:
    """Open or close the alert group's incident, or change it, so that it matches the group's state.

    An incident that Alertmanager has just closed is reopened, and so is one whose alerts all started no later than the
    incident: Alertmanager reports alerts as resolved and firing again when its configuration changes. While the group
    is firing, its incident takes the group's title, and an earlier start.
    """
    require_service(context.actor)
    is_firing = command.state is AlertState.FIRING
    projects = _projects(command, context) if is_firing else []
    incident = context.facts.open_incidents_by_key.get((context.organization.id, command.dedup_key))
    if incident is None and is_firing:
        incident = _reopenable(command, context)
    if incident is None:
        return _open(command, context, projects) if is_firing else CommandResult(200)

    context.require_access(incident)
    if is_firing:
        _update(incident, command, context)
    status = _status_of(command.severity) if is_firing else IncidentStatus.CLOSED
    if status is not incident.status:
        change_status(incident, status, context, by=StatusMethod.RULE_TRIGGERED)
    return CommandResult(200, context.incident_json(incident))


def _reopenable(command: ReceiveAlerts, context: CommandContext) -> Incident | None:
    """Return the group's last incident if Alertmanager itself closed it and its alerts are the same, or just did."""
    incident = context.facts.closed_incidents_by_key.get((context.organization.id, command.dedup_key))
    if incident is None or incident.date_closed is None or incident.status_method is not StatusMethod.RULE_TRIGGERED:
        return None
    is_recent = context.accepted_at - incident.date_closed <= REOPENING_PERIOD
    is_same = command.last_starts_at is not None and command.last_starts_at <= incident.date_started
    return incident if is_recent or is_same else None


def _update(incident: Incident, command: ReceiveAlerts, context: CommandContext) -> None:
    started = min(command.starts_at or incident.date_started, incident.date_started)
    if incident.expect_alerts(command.stale_seconds, at=context.accepted_at):
        context.changes.updated[incident.id] = incident
    if (command.title, started) != (incident.title, incident.date_started):
        incident.title, incident.date_started = command.title, started
        incident.bump_version()
        context.changes.updated[incident.id] = incident


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
    incident = create_incident(new, context)
    incident.expect_alerts(command.stale_seconds, at=context.accepted_at)
    return CommandResult(201, context.incident_json(incident))


def _projects(command: ReceiveAlerts, context: CommandContext) -> list[NamedProject]:
    """Return the project, if any, that the alerts name, or else the default one.

    A service has access to every active project.

    :raises InvalidFields: if the organization has no such active project.
    """
    named = [slug for slug in (command.project, command.default_project) if slug is not None]
    for slug in named:
        project = context.facts.find_active_project(context.organization.id, slug)
        if project is not None:
            return [project]
    if named:
        raise InvalidFields({"project": ["Invalid project"]})
    return []


def _status_of(severity: str | None) -> IncidentStatus:
    return SEVERITIES.get((severity or "").lower(), IncidentStatus.OPEN)
