"""Columns and conditions for projects, including the facts by which the policy decides who has access to a project."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import ARRAY, BigInteger, ColumnElement, Select, Text, and_, exists, func, select

from models.directory.policy_facts import project_facts
from models.directory.tables import project_teams, projects
from models.enums import ObjectStatus
from models.incidents.incident import incident_projects
from models.policy import Actor, OrganizationFacts, ProjectFacts, has_project_access


class NamedProject(NamedTuple):
    """A project with its slug and the facts that decide who has access to it."""

    slug: str
    facts: ProjectFacts


_TEAMS: Final = (
    select(project_teams.c.team_id).where(project_teams.c.project_id == projects.c.id).correlate(projects)
).scalar_subquery()

PROJECT_COLUMNS: Final = (
    projects.c.id,
    projects.c.slug,
    (projects.c.status == ObjectStatus.ACTIVE).label("active"),
    func.array(_TEAMS, type_=ARRAY(BigInteger)).label("teams"),
)
"""The columns of :data:`models.directory.policy_facts.PROJECT_COLUMNS`, for SQLAlchemy Core statements."""


def project_from_row(row: Any) -> NamedProject:
    """Build a project from a row that has :data:`PROJECT_COLUMNS`."""
    return NamedProject(row.slug, project_facts(row))


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
