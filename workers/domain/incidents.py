"""Operations on incidents that several handlers share: open an incident, and change its status."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from models.alert_rules.alert_rule import AlertRule
from models.directory.policy_facts import NamedProject
from models.enums import ActivityType, IncidentStatus, IncidentType, StatusMethod
from models.incidents.incident import Incident
from tasks.events import IncidentOpened, StatusChanged
from workers.batch.context import CommandContext


@dataclass(frozen=True, slots=True)
class NewIncident:
    """An incident to open. ``rule`` is the alert rule, if any, that opens it."""

    title: str
    projects: Sequence[NamedProject]
    date_started: datetime
    date_detected: datetime
    status: IncidentStatus = IncidentStatus.OPEN
    dedup_key: str | None = None
    rule: AlertRule | None = None


class StatusChange(NamedTuple):
    """A status change: its activity, its event, the old status and the new status."""

    activity_id: int
    event_id: UUID
    old: IncidentStatus
    new: IncidentStatus


def create_incident(new: NewIncident, context: CommandContext) -> Incident:
    """Open an incident with the organization's next identifier, and emit IncidentOpened.

    Two activities are recorded. The detection is dated at the incident's start. The creation is dated at the time when
    the command was accepted, or at the incident's start if that is later.
    """
    organization_id, rule = context.organization.id, new.rule
    incident = Incident(
        id=context.facts.new_incident_ids.pop(),
        organization_id=organization_id,
        identifier=context.facts.incident_numbers.assign_next(organization_id),
        title=new.title,
        status=new.status,
        status_method=StatusMethod.RULE_TRIGGERED,
        type=IncidentType.DETECTED if rule is None else IncidentType.ALERT_TRIGGERED,
        dedup_key=new.dedup_key,
        version=1,
        event_sequence=0,
        date_started=new.date_started,
        date_detected=new.date_detected,
        date_added=context.accepted_at,
        date_closed=None,
        last_activity_at=max(new.date_started, context.accepted_at),
        alert_rule_id=None if rule is None else rule.id,
        alert_rule_generation=None if rule is None else rule.generation,
        projects=frozenset(project.facts.id for project in new.projects),
    )
    context.facts.register(incident)
    context.changes.opened.append(incident)
    context.record_dated_activity(incident, incident.date_started, ActivityType.DETECTED)
    context.record_dated_activity(incident, incident.last_activity_at, ActivityType.CREATED)
    context.emit(incident, IncidentOpened(projects=tuple(sorted(project.slug for project in new.projects))))
    return incident


def change_status(
    incident: Incident,
    new: IncidentStatus,
    context: CommandContext,
    *,
    by: StatusMethod,
    comment: str | None = None,
    closed_at: datetime | None = None,
) -> StatusChange:
    """Change the incident's status, record the activity, and emit StatusChanged.

    ``closed_at`` is the date on which the incident was closed; it defaults to the date of the activity. The incident is
    closed neither before its start nor later than that activity.
    """
    at = incident.record_activity(accepted_at=context.accepted_at)
    closed = max(incident.date_started, min(closed_at or at, at))
    old = incident.set_status(new, by=by, at=closed)
    context.facts.index_key(incident)
    activity = context.record_dated_activity(
        incident,
        at,
        ActivityType.STATUS_CHANGE,
        value=str(int(new)),
        previous_value=str(int(old)),
        comment=comment,
    )
    event = context.emit(incident, StatusChanged(activity=activity.id, old=old, new=new, comment=comment))
    return StatusChange(activity.id, event, old, new)
