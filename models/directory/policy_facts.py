"""Columns and constructors for the facts about organizations and projects that the policy needs."""

from __future__ import annotations

from typing import Any, Final

from models.enums import ObjectStatus
from models.policy import OrganizationFacts, ProjectFacts

IS_ACTIVE: Final = f"status = '{ObjectStatus.ACTIVE}'"
"""The SQL condition for projects or teams that are in use."""

ORGANIZATION_COLUMNS: Final = """o.id AS organization_id, o.slug, o.features, o.open_membership,
       o.alerts_member_write, o.events_member_admin"""
"""The columns that :func:`organization_facts` needs from ``organizations o``."""

PROJECT_COLUMNS: Final = f"""p.id, p.slug, p.{IS_ACTIVE} AS active,
       ARRAY(SELECT pt.team_id FROM project_teams pt WHERE pt.project_id = p.id) AS teams"""  # noqa: S608 - our own condition
"""The columns that :func:`project_facts` needs from ``projects p``, including the project's slug."""


def organization_facts(row: Any) -> OrganizationFacts:
    """Build the policy's facts about an organization from a row with :data:`ORGANIZATION_COLUMNS`."""
    return OrganizationFacts(
        id=row.organization_id,
        slug=row.slug,
        features=frozenset(row.features),
        open_membership=row.open_membership,
        alerts_member_write=row.alerts_member_write,
        events_member_admin=row.events_member_admin,
    )


def project_facts(row: Any) -> ProjectFacts:
    """Build the policy's facts about a project from a row with :data:`PROJECT_COLUMNS`."""
    return ProjectFacts(id=row.id, active=row.active, teams=frozenset(row.teams))
