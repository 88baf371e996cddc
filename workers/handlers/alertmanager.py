"""What Prometheus Alertmanager says of a group of alerts, and the incident that follows it.

What is said is a state, not a change: said again it changes nothing, and what was missed is made up for by what is
said next.
"""

from __future__ import annotations

from models.enums import AlertState, IncidentStatus, StatusMethod
from models.policy import require_service
from models.refusals import FIELD_REQUIRED, InvalidFields
from tasks.commands.alertmanager import ReceiveAlerts
from workers.batch.context import Answer, Work
from workers.batch.facts import Project
from workers.domain.incidents import Opening, change_status, open_incident


def receive_alerts(ask: ReceiveAlerts, work: Work) -> Answer:
    """Open the incident of the group, give it another status, or close it; what stands already is left alone."""
    require_service(work.actor)
    is_firing = ask.state is AlertState.FIRING
    projects = _projects(ask, work) if is_firing else []
    incident = work.world.by_key.get((work.organization.id, ask.dedup_key))
    if incident is None:
        return _open(ask, work, projects) if is_firing else Answer(200)

    work.require_access(incident)
    status = IncidentStatus.from_severity(ask.severity) if is_firing else IncidentStatus.CLOSED
    if status is not incident.status:
        change_status(incident, status, work, by=StatusMethod.RULE_TRIGGERED)
    return Answer(200, work.show(incident))


def _open(ask: ReceiveAlerts, work: Work, projects: list[Project]) -> Answer:
    if not projects:
        raise InvalidFields({"project": [FIELD_REQUIRED]})
    began = ask.starts_at or work.at
    opening = Opening(
        title=ask.title,
        projects=projects,
        date_started=began,
        date_detected=began,
        status=IncidentStatus.from_severity(ask.severity),
        dedup_key=ask.dedup_key,
    )
    return Answer(201, work.show(open_incident(opening, work)))


def _projects(ask: ReceiveAlerts, work: Work) -> list[Project]:
    """The project that the alerts name; a program reaches every one of its organization that is active."""
    if ask.project is None:
        return []
    project = work.world.project_in_use(work.organization.id, ask.project)
    if project is None:
        raise InvalidFields({"project": ["Invalid project"]})
    return [project]
