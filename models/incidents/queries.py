"""Columns for reading incidents and activities, and functions that build entities from the rows.

The gateway's reads and the workers' loads share them, so that an entity's columns are listed only once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from sqlalchemy import select

from models.base import statement_text
from models.directory.policy_facts import PROJECT_COLUMNS
from models.directory.tables import projects
from models.enums import ActivityType, IncidentStatus, IncidentType, StatusMethod
from models.incidents.activity import Activity, activities
from models.incidents.incident import Incident, incident_projects, incidents
from models.incidents.mentions import MentionedTeam

INCIDENT_COLUMNS: Final = tuple(incidents.c)
"""The columns for every field of an incident except ``projects``, which has its own table."""

ACTIVITY_COLUMNS: Final = tuple(column for column in activities.c if column.name != "notification_uuid")
"""The columns for every field of an activity. ``mentions`` holds both ``mentioned_users`` and ``mentioned_teams``."""

PROJECTS_OF_INCIDENTS: Final = (
    statement_text(select(incident_projects.c.incident_id, *PROJECT_COLUMNS).join_from(incident_projects, projects))
    + " WHERE incident_projects.incident_id = ANY(%(ids)s::bigint[])"
)
"""The query for the projects of the incidents with these ids, each with the id of its incident."""

MENTIONED_TEAMS: Final = """
SELECT t.id, t.organization_id,
       coalesce(array_agg(u.id) FILTER (WHERE tm.is_active AND u.is_active), '{}') AS people
FROM teams t
LEFT JOIN team_members tm ON tm.team_id = t.id
LEFT JOIN members m ON m.id = tm.member_id AND m.organization_id = t.organization_id
LEFT JOIN users u ON u.id = m.user_id
WHERE t.id = ANY(%(ids)s::bigint[])
GROUP BY t.id
"""
"""The query for the teams with these ids and their active members.

It is plain SQL, because workers execute it for every batch.
"""


def incident_from_row(row: Any, *, projects: Iterable[int] = ()) -> Incident:
    """Build an incident from a row with :data:`INCIDENT_COLUMNS`. ``projects`` holds ids."""
    return Incident(
        id=row.id,
        organization_id=row.organization_id,
        identifier=row.identifier,
        title=row.title,
        status=IncidentStatus(row.status),
        status_method=StatusMethod(row.status_method),
        type=IncidentType(row.type),
        dedup_key=row.dedup_key,
        version=row.version,
        event_sequence=row.event_sequence,
        date_started=row.date_started,
        date_detected=row.date_detected,
        date_added=row.date_added,
        date_closed=row.date_closed,
        last_activity_at=row.last_activity_at,
        alert_rule_id=row.alert_rule_id,
        alert_rule_generation=row.alert_rule_generation,
        alerts_stale_at=row.alerts_stale_at,
        alerts_stale_seconds=row.alerts_stale_seconds,
        projects=frozenset(projects),
    )


def activity_from_row(row: Any) -> Activity:
    """Build an activity from a row with :data:`ACTIVITY_COLUMNS`."""
    mentions = row.mentions or {}
    return Activity(
        id=row.id,
        incident_id=row.incident_id,
        user_id=row.user_id,
        type=ActivityType(row.type),
        date_added=row.date_added,
        value=row.value,
        previous_value=row.previous_value,
        comment=row.comment,
        version=row.version,
        mentioned_users=frozenset(mentions.get("users", ())),
        mentioned_teams=frozenset(mentions.get("teams", ())),
    )


def mentioned_team_from_row(row: Any) -> MentionedTeam:
    """Build a team from a row of :data:`MENTIONED_TEAMS`."""
    return MentionedTeam(row.id, row.organization_id, frozenset(row.people))
