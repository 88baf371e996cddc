"""The life of an incident: its opening, its changes of status, and who has seen it."""

from __future__ import annotations

from models.policy import has_project_access, is_on_team_of, require_author, require_status
from models.refusals import Conflict, Forbidden, InvalidFields
from models.vocabulary import JSON, IncidentStatus, StatusMethod, SubscriptionReason
from tasks.commands import MarkSeen, OpenIncident, SetStatus
from tasks.events import Seen
from workers.work import Answer, Work
from workers.world import Project


def open_incident(ask: OpenIncident, work: Work) -> Answer:
    """Open an incident, or answer the open one that has the same key."""
    projects = _projects(ask, work)
    if ask.dedup_key is not None:
        standing = work.world.by_key.get((work.organization.id, ask.dedup_key))
        if standing is not None:
            work.require_access(standing)
            return Answer(200, work.show(standing))

    incident = work.open_incident(
        title=ask.title,
        projects=projects,
        status=IncidentStatus(ask.status),
        started=ask.date_started,
        dedup_key=ask.dedup_key,
    )
    return Answer(201, work.show(incident))


def set_status(ask: SetStatus, work: Work) -> Answer:
    """Close the incident, reopen it, or say how bad it is; the status it has already changes nothing."""
    incident = work.incident(ask.incident)
    require_author(work.actor)
    new = IncidentStatus(ask.status)
    require_status(work.actor, work.organization, new)
    work.require_version(incident.version)
    if new is incident.status:
        return Answer(200, work.show(incident))
    if new is not IncidentStatus.CLOSED and work.world.holder_of_key(incident):
        raise Conflict("Another open incident has this one's dedupKey.")

    work.change_status(incident, new, by=StatusMethod.MANUAL, comment=ask.comment)
    reason = SubscriptionReason.CLOSED if new is IncidentStatus.CLOSED else SubscriptionReason.SUBSCRIBED
    work.subscribe(incident, [work.author.id], reason)
    return Answer(200, work.show(incident))


def mark_seen(ask: MarkSeen, work: Work) -> Answer:
    """Remember that the person has seen the incident, if they are on a team of one of its projects; else nothing."""
    incident = work.incident(ask.incident)
    require_author(work.actor)
    person = work.author
    if any(is_on_team_of(work.actor, project.facts) for project in work.world.projects_of(incident)):
        work.world.see(incident, person, work.at)
        work.changes.seen[incident.id, person.id] = work.at
        work.announce(incident, Seen(user=person.id))
    return Answer(201, {})


def _projects(ask: OpenIncident, work: Work) -> list[Project]:
    wrongs: dict[str, JSON] = {}
    found = [work.world.project_in_use(work.organization.id, slug) for slug in dict.fromkeys(ask.projects)]
    projects = [project for project in found if project is not None]
    if len(projects) != len(found):
        wrongs["projects"] = ["Invalid project"]
    if ask.alert_rule is not None:
        wrongs["alertRule"] = ["Invalid alert rule"]
    if wrongs:
        raise InvalidFields(wrongs)
    if not all(has_project_access(work.actor, work.organization, project.facts) for project in projects):
        raise Forbidden
    return projects
