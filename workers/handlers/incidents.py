"""The life of an incident: its opening, its changes of status, and who has seen it."""

from __future__ import annotations

from models.alert_rules.alert_rule import AlertRule
from models.enums import JSON, IncidentStatus, StatusMethod, SubscriptionReason
from models.policy import has_project_access, is_project_member, require_person, require_status_scope
from models.refusals import Conflict, Forbidden, InvalidFields
from tasks.commands.incidents import MarkSeen, OpenIncident, SetStatus
from tasks.events import Seen
from workers.batch.context import Answer, Work
from workers.batch.facts import Project
from workers.domain.incidents import Opening, change_status
from workers.domain.incidents import open_incident as begin
from workers.domain.rule_actions import close_otherwise


def open_incident(ask: OpenIncident, work: Work) -> Answer:
    """Open an incident, or answer the open one that has the same key."""
    projects, rule = _projects_and_rule(ask, work)
    if ask.dedup_key is not None:
        standing = work.world.by_key.get((work.organization.id, ask.dedup_key))
        if standing is not None:
            work.require_access(standing)
            return Answer(200, work.show(standing))

    started = ask.date_started or work.at
    opening = Opening(
        title=ask.title,
        projects=projects,
        date_started=started,
        date_detected=started,
        status=IncidentStatus(ask.status),
        dedup_key=ask.dedup_key,
        rule=rule,
    )
    incident = begin(opening, work)
    return Answer(201, work.show(incident))


def set_status(ask: SetStatus, work: Work) -> Answer:
    """Close the incident, reopen it, or say how bad it is; the status it has already changes nothing."""
    incident = work.incident(ask.incident)
    require_person(work.actor)
    new = IncidentStatus(ask.status)
    require_status_scope(work.actor, work.organization, new)
    work.require_version(incident.version)
    if new is incident.status:
        return Answer(200, work.show(incident))
    if new is not IncidentStatus.CLOSED and work.world.holder_of_key(incident):
        raise Conflict("Another open incident has this one's dedupKey.")

    # Without a person it is tocsin itself: the rule that found the incident is no more what it was.
    by = StatusMethod.MANUAL if work.actor.is_person else StatusMethod.RULE_UPDATED
    change = change_status(incident, new, work, by=by, comment=ask.comment)
    if work.actor.is_person:
        reason = SubscriptionReason.CLOSED if new is IncidentStatus.CLOSED else SubscriptionReason.SUBSCRIBED
        work.subscribe(incident, [work.author.id], reason)
    if new is IncidentStatus.CLOSED:
        close_otherwise(incident, change, work)
    return Answer(200, work.show(incident))


def mark_seen(ask: MarkSeen, work: Work) -> Answer:
    """Remember that the person has seen the incident, if they are on a team of one of its projects; else nothing."""
    incident = work.incident(ask.incident)
    require_person(work.actor)
    person = work.author
    if any(is_project_member(work.actor, project.facts) for project in work.world.projects_of(incident)):
        work.world.see(incident, person, work.at)
        work.changes.seen[incident.id, person.id] = work.at
        work.announce(incident, Seen(user=person.id))
    return Answer(201, {})


def _projects_and_rule(ask: OpenIncident, work: Work) -> tuple[list[Project], AlertRule | None]:
    wrongs: dict[str, JSON] = {}
    found = [work.world.project_in_use(work.organization.id, slug) for slug in dict.fromkeys(ask.projects)]
    projects = [project for project in found if project is not None]
    rule = None if ask.alert_rule is None else work.rule(ask.alert_rule)
    if len(projects) != len(found):
        wrongs["projects"] = ["Invalid project"]
    if ask.alert_rule is not None and (rule is None or not work.reaches(rule)):
        wrongs["alertRule"] = ["Invalid alert rule"]
    if wrongs:
        raise InvalidFields(wrongs)
    if not all(has_project_access(work.actor, work.organization, project.facts) for project in projects):
        raise Forbidden
    return projects, rule
