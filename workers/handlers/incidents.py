"""The life of an incident: its opening."""

from __future__ import annotations

from models.incident import Incident
from models.policy import has_project_access
from models.refusals import Forbidden, InvalidFields
from models.shapes import incident_details
from models.vocabulary import JSON, ActivityType, IncidentStatus, IncidentType, StatusMethod
from tasks.commands import OpenIncident
from tasks.events import IncidentOpened
from workers.work import Answer, Work
from workers.world import Project


def open_incident(ask: OpenIncident, work: Work) -> Answer:
    """Open an incident, or answer the open one that has the same key."""
    projects = _projects(ask, work)
    if ask.dedup_key is not None:
        standing = work.world.by_key.get((work.organization.id, ask.dedup_key))
        if standing is not None:
            work.require_access(standing)
            return Answer(200, _details(standing, work))

    incident = _new_incident(ask, work, projects)
    work.world.add(incident)
    work.changes.opened.append(incident)
    work.record_at(incident, incident.date_started, ActivityType.DETECTED)
    work.record_at(incident, incident.last_activity_at, ActivityType.CREATED)
    work.announce(incident, IncidentOpened(projects=tuple(sorted(project.slug for project in projects))))
    return Answer(201, _details(incident, work))


def _projects(ask: OpenIncident, work: Work) -> list[Project]:
    wrongs: dict[str, JSON] = {}
    found = [work.world.by_slug.get((work.organization.id, slug)) for slug in dict.fromkeys(ask.projects)]
    projects = [project for project in found if project is not None and project.facts.active]
    if len(projects) != len(found):
        wrongs["projects"] = ["Invalid project"]
    if ask.alert_rule is not None:
        wrongs["alertRule"] = ["Invalid alert rule"]
    if wrongs:
        raise InvalidFields(wrongs)
    if not all(has_project_access(work.actor, work.organization, project.facts) for project in projects):
        raise Forbidden
    return projects


def _new_incident(ask: OpenIncident, work: Work, projects: list[Project]) -> Incident:
    organization = work.organization.id
    work.world.last_identifiers[organization] += 1
    started = ask.date_started or work.at
    return Incident(
        id=work.world.incident_ids.pop(),
        organization_id=organization,
        identifier=work.world.last_identifiers[organization],
        title=ask.title,
        status=IncidentStatus(ask.status),
        status_method=StatusMethod.RULE_TRIGGERED,
        type=IncidentType.DETECTED,
        dedup_key=ask.dedup_key,
        version=1,
        event_sequence=0,
        date_started=started,
        date_detected=started,
        date_added=work.at,
        date_closed=None,
        last_activity_at=max(started, work.at),
        projects=frozenset(project.facts.id for project in projects),
    )


def _details(incident: Incident, work: Work) -> JSON:
    viewer = work.actor.user_id
    return incident_details(
        incident,
        projects=[project.slug for project in work.world.projects_of(incident)],
        seen_by=work.world.seen.get(incident.id, ()),
        viewer=viewer,
        is_subscribed=viewer is not None and (incident.id, viewer) in work.world.subscribed,
    )
