"""Statements and conditions for projects, including the condition that an actor has access to a project."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ARRAY, ColumnElement, Select, Text, and_, exists, func, select

from models.directory.policy_facts import PROJECT_COLUMNS
from models.directory.tables import project_teams, projects
from models.enums import ObjectStatus
from models.incidents.incident import incident_projects
from models.policy import Actor, OrganizationFacts, ProjectFacts, has_project_access


def project_slugs(incident_id: ColumnElement[int]) -> ColumnElement[Sequence[str]]:
    """Return a column, ``slugs``, that holds the slugs of an incident's projects in alphabetical order."""
    slugs = (
        select(projects.c.slug)
        .join_from(incident_projects, projects)
        .where(incident_projects.c.incident_id == incident_id)
        .order_by(projects.c.slug)
    )
    return func.array(slugs.scalar_subquery(), type_=ARRAY(Text)).label("slugs")


def projects_of(organization: int) -> Select[Any]:
    """Return the statement that selects an organization's projects, sorted by id."""
    return select(*PROJECT_COLUMNS).where(projects.c.organization_id == organization).order_by(projects.c.id)


def is_accessible(actor: Actor, organization: OrganizationFacts) -> ColumnElement[bool]:
    """Return the SQL condition that the actor has access to a row of ``projects``. Lists that SQL paginates need it."""
    is_active = projects.c.status == ObjectStatus.ACTIVE
    # An actor who has access to a project without teams has access to every active project.
    if has_project_access(actor, organization, ProjectFacts(id=0, active=True, teams=frozenset())):
        return is_active
    is_on_a_team = exists().where(project_teams.c.project_id == projects.c.id, project_teams.c.team_id.in_(actor.teams))
    return and_(is_active, is_on_a_team)
