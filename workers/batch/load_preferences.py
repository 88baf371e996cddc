"""Functions that load the facts about people's preferences."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from sqlalchemy.engine import Connection

from models.directory.policy_facts import project_from_row
from models.incidents.queries import PROJECTS_OF_INCIDENTS
from models.policy import ProjectFacts
from models.types import MAX_ID
from workers.batch.fact_request import FactRequest
from workers.batch.preference_facts import MutableIncident, PreferenceFacts

_VERSIONS: Final = """
SELECT user_id, version FROM notification_preferences WHERE user_id = ANY(%(users)s::bigint[])
"""

_MUTES: Final = """
SELECT m.user_id, m.incident_id, m.until, true AS is_muted, i.organization_id
FROM incident_mutes m JOIN incidents i ON i.id = m.incident_id
WHERE m.user_id = ANY(%(users)s::bigint[])
UNION ALL
SELECT w.user_id, i.id, NULL, false, i.organization_id
FROM unnest(%(muting)s::bigint[], %(incidents)s::bigint[]) AS w(user_id, incident_id)
JOIN incidents i ON i.id = w.incident_id
"""


def load_preferences(connection: Connection, request: FactRequest) -> dict[int, PreferenceFacts]:
    """Load the preferences of the people in the request, by user id.

    The organizations of the incidents that they mute are added to the request.
    """
    if not request.preference_user_ids:
        return {}
    facts = {user: PreferenceFacts() for user in request.preference_user_ids}
    users = list(facts)
    for row in connection.exec_driver_sql(_VERSIONS, {"users": users}):
        facts[row.user_id].version = row.version
    named = [(user, id_) for user, id_ in request.muted_incident_ids if id_ <= MAX_ID]
    rows = connection.exec_driver_sql(
        _MUTES, {"users": users, "muting": [user for user, _ in named], "incidents": [id_ for _, id_ in named]}
    ).all()
    projects = _load_projects(connection, {row.incident_id for row in rows})
    for row in rows:
        of_person = facts[row.user_id]
        if row.is_muted:
            of_person.mutes[row.incident_id] = row.until
        of_person.incidents[row.incident_id] = MutableIncident(row.organization_id, tuple(projects[row.incident_id]))
        request.organization_ids.add(row.organization_id)
    return facts


def _load_projects(connection: Connection, incidents: set[int]) -> dict[int, list[ProjectFacts]]:
    projects: dict[int, list[ProjectFacts]] = defaultdict(list)
    if incidents:
        for row in connection.exec_driver_sql(PROJECTS_OF_INCIDENTS, {"ids": list(incidents)}):
            projects[row.incident_id].append(project_from_row(row).facts)
    return projects
