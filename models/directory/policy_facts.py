"""Columns, statements and constructors for the facts that the policy needs: organizations, projects, memberships.

Columns are declared once, in SQLAlchemy Core, for the gateway's reads. The hot path takes the same columns as SQL text
(docs/decisions/0021-sql-text-on-the-hot-path.md).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final, NamedTuple, Protocol

from sqlalchemy import ARRAY, BigInteger, func, select

from models.base import statement_text
from models.directory.tables import members, project_teams, projects, team_members, teams
from models.enums import CallerKind, ObjectStatus, Role
from models.policy import Actor, OrganizationFacts, ProjectFacts

IS_ACTIVE: Final = f"status = '{ObjectStatus.ACTIVE}'"
"""The SQL condition for projects or teams that are in use."""

ORGANIZATION_COLUMNS: Final = """o.id AS organization_id, o.slug, o.features, o.open_membership,
       o.alerts_member_write, o.events_member_admin"""
"""The columns that :func:`organization_facts` needs from ``organizations o``."""


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


# --- projects --------------------------------------------------------------------------------------------------------


class NamedProject(NamedTuple):
    """A project with its slug and the facts that decide who has access to it."""

    slug: str
    organization_id: int
    facts: ProjectFacts


_PROJECT_TEAMS: Final = (
    select(project_teams.c.team_id).where(project_teams.c.project_id == projects.c.id).correlate(projects)
)

PROJECT_COLUMNS: Final = (
    projects.c.id,
    projects.c.slug,
    projects.c.organization_id,
    (projects.c.status == ObjectStatus.ACTIVE).label("active"),
    func.array(_PROJECT_TEAMS.scalar_subquery(), type_=ARRAY(BigInteger)).label("teams"),
)
"""The columns of ``projects`` that :func:`project_from_row` needs.

``teams`` holds all attached teams: mentions may name inactive ones, and the policy ignores them
(:class:`~models.policy.ProjectFacts`).
"""

PROJECTS: Final = statement_text(select(*PROJECT_COLUMNS))
"""The statement for all projects, as SQL text to which a condition on ``projects`` can be appended."""


def project_from_row(row: Any) -> NamedProject:
    """Build a project from a row with :data:`PROJECT_COLUMNS`."""
    return NamedProject(
        row.slug, row.organization_id, ProjectFacts(id=row.id, active=row.active, teams=frozenset(row.teams))
    )


# --- memberships -----------------------------------------------------------------------------------------------------

_ACTIVE_TEAMS: Final = (
    select(team_members.c.team_id)
    .join_from(team_members, teams)
    .where(team_members.c.member_id == members.c.id, team_members.c.is_active, teams.c.status == ObjectStatus.ACTIVE)
    .correlate(members)
)
_TEAMS_EVER: Final = select(team_members.c.team_id).where(team_members.c.member_id == members.c.id).correlate(members)

MEMBERSHIP_COLUMNS: Final = (
    members.c.organization_id,
    members.c.user_id,
    members.c.role,
    func.array(_ACTIVE_TEAMS.scalar_subquery(), type_=ARRAY(BigInteger)).label("teams"),
)
"""The columns of ``members`` that :func:`actor_from_membership` needs, after the key: organization and user."""

TEAMS_EVER: Final = func.array(_TEAMS_EVER.scalar_subquery(), type_=ARRAY(BigInteger)).label("teams_ever")
"""The column of ``members`` with all teams to which the member ever belonged. They may be mentioned through any."""

MEMBERSHIPS: Final = statement_text(select(*MEMBERSHIP_COLUMNS))
"""The statement for all memberships, as SQL text to which a condition on ``members`` can be appended."""


class Membership(Protocol):
    """A person's role in an organization, and their teams there. Both are ``None`` in a row without a membership."""

    @property
    def role(self) -> str | None:
        """The role, as in :class:`~models.enums.Role`."""

    @property
    def teams(self) -> Collection[int] | None:
        """The ids of the active teams of which the person is an active member."""


def actor_from_membership(
    membership: Membership | None,
    *,
    user_id: int | None,
    kind: CallerKind = CallerKind.USER,
    organization_id: int | None = None,
    scopes: frozenset[str] | None = None,
) -> Actor:
    """Build an actor from a row with :data:`MEMBERSHIP_COLUMNS`.

    The actor has no role and no teams if they are not a member (``None``, or a row of an outer join without one).
    ``organization_id`` and ``scopes`` are those of the actor's token.
    """
    if membership is None or (role := membership.role) is None:
        return Actor(kind, user_id, organization_id, scopes)
    return Actor(kind, user_id, organization_id, scopes, Role(role), frozenset(membership.teams or ()))


# --- tokens ----------------------------------------------------------------------------------------------------------

TOKEN_COLUMNS: Final = """t.kind, t.name, t.scopes, t.act_as,
       t.revoked_at IS NOT NULL AS revoked, coalesce(t.expires_at <= clock_timestamp(), false) AS expired"""  # noqa: S105 - not a password
"""The columns of ``tokens t`` that decide whether a token is valid now, and what it allows."""
