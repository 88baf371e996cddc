"""The life of an incident, whoever leads it: how one opens, how its status changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from models.alert_rules.alert_rule import AlertRule
from models.enums import ActivityType, IncidentStatus, IncidentType, StatusMethod
from models.incidents.incident import Incident
from tasks.events import IncidentOpened, StatusChanged
from workers.batch.context import Work
from workers.batch.facts import Project


@dataclass(frozen=True, slots=True)
class Opening:
    """An incident to be. ``rule`` is the one that finds it, as it is now."""

    title: str
    projects: Sequence[Project]
    date_started: datetime
    date_detected: datetime
    status: IncidentStatus = IncidentStatus.OPEN
    dedup_key: str | None = None
    rule: AlertRule | None = None


class Change(NamedTuple):
    """A change of status: its activity, and the event that tells of it."""

    activity: int
    event: UUID
    old: IncidentStatus
    new: IncidentStatus


def open_incident(opening: Opening, work: Work) -> Incident:
    """Open it under the organization's next number; it was detected when it started and is created now."""
    organization, rule = work.organization.id, opening.rule
    work.world.last_identifiers[organization] += 1
    incident = Incident(
        id=work.world.incident_ids.pop(),
        organization_id=organization,
        identifier=work.world.last_identifiers[organization],
        title=opening.title,
        status=opening.status,
        status_method=StatusMethod.RULE_TRIGGERED,
        type=IncidentType.DETECTED if rule is None else IncidentType.ALERT_TRIGGERED,
        dedup_key=opening.dedup_key,
        version=1,
        event_sequence=0,
        date_started=opening.date_started,
        date_detected=opening.date_detected,
        date_added=work.at,
        date_closed=None,
        last_activity_at=max(opening.date_started, work.at),
        alert_rule_id=None if rule is None else rule.id,
        alert_rule_generation=None if rule is None else rule.generation,
        projects=frozenset(project.facts.id for project in opening.projects),
    )
    work.world.add(incident)
    work.changes.opened.append(incident)
    work.record_at(incident, incident.date_started, ActivityType.DETECTED)
    work.record_at(incident, incident.last_activity_at, ActivityType.CREATED)
    work.announce(incident, IncidentOpened(projects=tuple(sorted(project.slug for project in opening.projects))))
    return incident


def change_status(
    incident: Incident,
    new: IncidentStatus,
    work: Work,
    *,
    by: StatusMethod,
    comment: str | None = None,
    closed_at: datetime | None = None,
) -> Change:
    """Give it another status than it has; ``closed_at`` dates a close otherwise than now."""
    at = incident.record_activity(accepted_at=work.at)
    old = incident.set_status(new, by=by, at=closed_at or at)
    work.world.follow(incident)
    activity = work.record_at(
        incident,
        at,
        ActivityType.STATUS_CHANGE,
        value=str(int(new)),
        previous_value=str(int(old)),
        comment=comment,
    )
    event = work.announce(incident, StatusChanged(activity=activity.id, old=old, new=new, comment=comment))
    return Change(activity.id, event, old, new)
