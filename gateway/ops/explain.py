"""Why a person was, or was not, notified of what happened on an incident, for operators."""

from __future__ import annotations

from typing import Final

from sqlalchemy import select
from sqlalchemy.engine import Connection

from gateway.reads.notification_decisions import MAX_DECISIONS
from models.incidents.incident import incidents
from models.notifications.access import load_incidents, load_people
from models.notifications.derivation import (
    IncidentAccess,
    activity_event_from_row,
    explain_activities,
    select_activity_events,
    select_decisions,
)
from models.notifications.explanation import decision_from_row
from models.operations.commands import find_organization, find_user
from models.refusals import NotFound
from models.serializers.notifications import DecisionListJson, decisions_json
from tasks.events import AUDIENCE_EVENTS

_AUDIENCE_TYPES: Final = tuple(event.type for event in AUDIENCE_EVENTS)


def explain_incident(connection: Connection, organization: str, identifier: int, user: str) -> DecisionListJson:
    """Return the decisions about a person, a username or an id, and an incident, newest first.

    :raises NotFound: there is no such organization, incident or user.
    """
    organization_id = find_organization(connection, organization)
    user_id = find_user(connection, user)
    incident_id: int | None = connection.execute(
        select(incidents.c.id).where(
            incidents.c.organization_id == organization_id, incidents.c.identifier == identifier
        )
    ).scalar()
    if organization_id is None or user_id is None or incident_id is None:
        raise NotFound
    incident = load_incidents(connection, {incident_id})[incident_id]
    person = load_people(connection, {(organization_id, user_id)})[organization_id, user_id]
    events = select_activity_events(organization_id, identifier, incident_id, _AUDIENCE_TYPES)
    # The events first: see explain_activities.
    event_rows = connection.execute(events).all()
    decision_rows = connection.execute(select_decisions(incident_id, user_id)).all()
    explained = explain_activities(
        map(activity_event_from_row, event_rows),
        map(decision_from_row, decision_rows),
        person,
        IncidentAccess(incident.organization, incident.projects),
    )
    decisions = [decision for activity in explained for decision in activity.decisions]
    return decisions_json(decisions[:MAX_DECISIONS])
