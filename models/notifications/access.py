"""The facts that decide whether people may read incidents now, for any number of people and incidents at once.

The notifier reads them when it plans, and the channels read them again before they send.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import NamedTuple

from sqlalchemy.engine import Connection

from models.directory.policy_facts import (
    MEMBERSHIPS,
    ORGANIZATION_COLUMNS,
    actor_from_membership,
    organization_facts,
    project_from_row,
)
from models.enums import IncidentStatus
from models.incidents.queries import PROJECTS_OF_INCIDENTS
from models.policy import Actor, OrganizationFacts, ProjectFacts


class IncidentFacts(NamedTuple):
    """The facts about an incident that decide access to it, and what messages say of it."""

    identifier: int
    organization: OrganizationFacts
    projects: tuple[ProjectFacts, ...]
    title: str
    status: IncidentStatus
    organization_name: str

    @property
    def is_critical(self) -> bool:
        """Whether messages about the incident pass quiet hours."""
        return self.status is IncidentStatus.CRITICAL


Membership = tuple[int, int]
"""An organization id and a user id."""


def load_incidents(connection: Connection, ids: Collection[int]) -> dict[int, IncidentFacts]:
    """Return the incidents by id, each with its organization and its projects. Deleted incidents are missing."""
    projects: dict[int, list[ProjectFacts]] = defaultdict(list)
    for row in connection.exec_driver_sql(PROJECTS_OF_INCIDENTS, {"ids": list(ids)}).all():
        projects[row.incident_id].append(project_from_row(row).facts)
    organizations: dict[int, OrganizationFacts] = {}
    incidents = {}
    for row in connection.exec_driver_sql(_INCIDENTS, {"ids": list(ids)}).all():
        organization = organizations.setdefault(row.organization_id, organization_facts(row))
        incidents[row.id] = IncidentFacts(
            row.identifier,
            organization,
            tuple(projects[row.id]),
            row.title,
            IncidentStatus(row.status),
            row.organization_name,
        )
    return incidents


def load_people(connection: Connection, memberships: Iterable[Membership]) -> dict[Membership, Actor]:
    """Return an actor for each membership. Users without an account are missing.

    A user who is inactive or not a member of the organization has no role.
    """
    wanted = list(memberships)
    rows = connection.exec_driver_sql(
        _PEOPLE,
        {"organizations": [each[0] for each in wanted], "users": [each[1] for each in wanted]},
    ).all()
    return {
        (row.organization_id, row.user_id): actor_from_membership(row if row.is_active else None, user_id=row.user_id)
        for row in rows
    }


_INCIDENTS = f"""
SELECT i.id, i.identifier, i.title, i.status, o.name AS organization_name, {ORGANIZATION_COLUMNS}
FROM incidents i JOIN organizations o ON o.id = i.organization_id
WHERE i.id = ANY(%(ids)s::bigint[])
"""  # noqa: S608 - our own columns

_PEOPLE = f"""
SELECT w.organization_id, u.id AS user_id, u.is_active, m.role, m.teams
FROM unnest(%(organizations)b::bigint[], %(users)b::bigint[]) AS w(organization_id, user_id)
JOIN users u ON u.id = w.user_id
LEFT JOIN LATERAL (
    {MEMBERSHIPS} WHERE members.organization_id = w.organization_id AND members.user_id = u.id
) AS m ON true
"""  # noqa: S608 - our own columns
