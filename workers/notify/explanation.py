"""Why a person was, or was not, notified of an incident's comments and status changes: the reads for `tocsin explain`.

The derivation itself is shared with the gateway (:mod:`models.notifications.derivation`).
"""

from __future__ import annotations

from typing import Final

from sqlalchemy.engine import Connection

from models.notifications.access import load_incidents, load_people
from models.notifications.derivation import (
    ExplainedActivity,
    IncidentAccess,
    activity_event_from_row,
    explain_activities,
    select_activity_events,
    select_decisions,
)
from models.notifications.explanation import decision_from_row
from workers.notify.audience import AUDIENCES

_NOTIFYING_TYPES: Final = tuple(type_ for type_, sources in AUDIENCES.items() if sources)


def explain_incident(connection: Connection, incident_id: int, user_id: int) -> list[ExplainedActivity]:
    """Return the incident's activities that notify people or about which decisions are recorded, newest first.

    Each has at least one decision about the user. The incident and the user must exist.
    """
    incident = load_incidents(connection, {incident_id})[incident_id]
    membership = (incident.organization.id, user_id)
    person = load_people(connection, {membership})[membership]
    own_events = select_activity_events(incident.organization.id, incident.identifier, incident_id, _NOTIFYING_TYPES)
    # The events first: see explain_activities.
    event_rows = connection.execute(own_events).all()
    decision_rows = connection.execute(select_decisions(incident_id, user_id)).all()
    return explain_activities(
        map(activity_event_from_row, event_rows),
        map(decision_from_row, decision_rows),
        person,
        IncidentAccess(incident.organization, incident.projects),
    )
