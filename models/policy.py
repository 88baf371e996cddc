"""The authorization policy: pure functions whose decisions are based on facts that their callers have loaded.

The gateway checks every read, and every command before it is accepted. The worker checks again when it applies the
command, and the notifier checks every recipient. The step numbers in the docstrings are those of the request pipeline
(docs/messages.md, "Order of checks").
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from models.enums import CallerKind, Feature, IncidentStatus, Role
from models.permissions import MAY_OPEN, Permission
from models.refusals import Forbidden, ForbiddenCode, NotFound, Unauthenticated
from models.role_scopes import GLOBAL_ROLES, ROLE_SCOPES

NO_SCOPES: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True)
class OrganizationFacts:
    """The attributes of an organization that determine access."""

    id: int
    slug: str
    features: frozenset[str]
    open_membership: bool = True
    alerts_member_write: bool = True
    events_member_admin: bool = True

    def has(self, feature: Feature) -> bool:
        """Whether the organization's plan includes the feature."""
        return feature in self.features


@dataclass(frozen=True, slots=True)
class ProjectFacts:
    """The attributes of a project that determine access.

    ``teams`` holds the ids of all teams attached to the project. Inactive teams grant no access, because an actor's own
    teams are always active.
    """

    id: int
    active: bool
    teams: frozenset[int]


@dataclass(frozen=True, slots=True)
class Actor:
    """The person, service or API key on whose behalf something is done in an organization, or tocsin itself.

    ``scopes`` holds the token's scopes. A user token without scopes (``None``) is a session. ``role`` is the person's
    role in the organization, or ``None`` if they are not a member. ``teams`` holds the ids of the active teams of which
    they are active members. A service that acts for a member has the kind ``service`` and the member's ``user_id``.
    """

    kind: CallerKind
    user_id: int | None = None
    organization_id: int | None = None
    scopes: frozenset[str] | None = None
    role: Role | None = None
    teams: frozenset[int] = frozenset()

    @property
    def is_person(self) -> bool:
        """Whether the actor is a person, or a service that acts for one."""
        return self.user_id is not None

    @property
    def is_session(self) -> bool:
        """Whether the actor is limited only by a role, not by a token's scopes."""
        return self.kind is CallerKind.USER and self.scopes is None


SYSTEM: Final = Actor(kind=CallerKind.SYSTEM)
"""tocsin itself. It passes every permission check, because it only carries out consequences of permitted changes."""


@dataclass(frozen=True, slots=True)
class CredentialFacts:
    """The attributes of a token that determine whether it is valid for a request or a command.

    ``user_active`` and ``is_member`` describe the user that the token belongs to or acts for: whether the account
    exists and is active, and whether it is a member of the service's organization. ``acts_for_user`` says whether the
    request names a user to act for, and ``may_act_for_users`` whether the token may act for users.
    """

    kind: CallerKind
    revoked: bool
    expired: bool
    user_active: bool
    acts_for_user: bool
    may_act_for_users: bool
    is_member: bool


def require_valid_credential(credential: CredentialFacts | None) -> None:
    """Require a known and valid token that may act for the user whom the request names, if any (step 3).

    :raises Unauthenticated: when the token is unknown (``None``), revoked or expired, or its own user is inactive.
    :raises Forbidden: when the token may not act for that user.
    """
    if credential is None or credential.revoked:
        raise Unauthenticated("Invalid token")
    if credential.expired:
        raise Unauthenticated("Token expired")
    if credential.kind is CallerKind.USER and not credential.user_active:
        raise Unauthenticated("User inactive or deleted")
    if not credential.acts_for_user:
        return
    if not (credential.kind is CallerKind.SERVICE and credential.may_act_for_users):
        raise Forbidden
    if not (credential.user_active and credential.is_member):
        raise Forbidden(code=ForbiddenCode.ACT_AS_NOT_MEMBER)


@lru_cache(maxsize=64)
def _role_scopes(role: Role, *, alerts_member_write: bool, events_member_admin: bool) -> frozenset[str]:
    scopes = ROLE_SCOPES[role]
    if role is not Role.MEMBER:
        return scopes
    options = {"alerts:write": alerts_member_write, "event:admin": events_member_admin}
    return scopes - {scope for scope, enabled in options.items() if not enabled}


def effective_scopes(actor: Actor, organization: OrganizationFacts) -> frozenset[str]:
    """Return the actor's scopes in the organization: those that both the role and the token include.

    One of the organization's API keys has every scope here, because step 4 has already limited it to its own scopes. A
    service token without scopes has none, even if it acts for a member, because only a session is limited by the role
    alone.
    """
    if actor.is_person:
        if actor.role is None:
            return NO_SCOPES
        scopes = _role_scopes(
            actor.role,
            alerts_member_write=organization.alerts_member_write,
            events_member_admin=organization.events_member_admin,
        )
        return scopes if actor.is_session else scopes & (actor.scopes or NO_SCOPES)
    if actor.organization_id != organization.id:
        return NO_SCOPES
    if actor.kind is CallerKind.KEY:
        return ROLE_SCOPES[Role.OWNER]
    return actor.scopes or NO_SCOPES


def require_token_scope(actor: Actor, permission: Permission, method: str) -> None:
    """Require that the token has one of the permission's scopes for the method (step 4). Sessions pass.

    :raises Forbidden: when the token has none of the scopes, or the permission does not allow the method.
    """
    if actor.is_session or actor.kind is CallerKind.SYSTEM:
        return
    allowing = permission.scopes.get(method, NO_SCOPES)
    if not (actor.scopes or NO_SCOPES) & allowing:
        raise Forbidden(code=ForbiddenCode.SCOPE_MISSING, scopes=allowing)


def require_organization_access(
    actor: Actor, organization: OrganizationFacts, permission: Permission, method: str
) -> None:
    """Require one of the permission's scopes in the organization (step 8), then the feature that it needs (step 9).

    :raises Forbidden: when the actor has none of the permission's scopes in this organization.
    :raises NotFound: when the organization's plan does not include the feature.
    """
    if actor.kind is CallerKind.SYSTEM:
        return
    allowing = permission.scopes.get(method, NO_SCOPES)
    if not effective_scopes(actor, organization) & allowing:
        raise Forbidden(code=ForbiddenCode.SCOPE_MISSING, scopes=allowing)
    feature = permission.required_feature(method)
    if feature is not None and not organization.has(feature):
        raise NotFound


def has_project_access(actor: Actor, organization: OrganizationFacts, project: ProjectFacts) -> bool:
    """Whether the actor has access to the project. Nobody has access to an inactive project."""
    if not project.active:
        return False
    if actor.kind is CallerKind.SYSTEM:
        return True
    if not actor.is_person:
        return actor.organization_id == organization.id
    if actor.role is None:
        return False
    return organization.open_membership or actor.role in GLOBAL_ROLES or is_project_member(actor, project)


def is_project_member(actor: Actor, project: ProjectFacts) -> bool:
    """Whether the actor belongs to an active team of the project. Access to the project does not require this."""
    return not actor.teams.isdisjoint(project.teams)


def may_read(actor: Actor, organization: OrganizationFacts, projects: Iterable[ProjectFacts]) -> bool:
    """Whether the actor has access to at least one of an incident's projects."""
    return any(has_project_access(actor, organization, project) for project in projects)


def require_project_access(actor: Actor, organization: OrganizationFacts, projects: Iterable[ProjectFacts]) -> None:
    """Require access to at least one of the projects (step 11).

    :raises Forbidden: when the actor has access to none of them.
    """
    if actor.kind is not CallerKind.SYSTEM and not may_read(actor, organization, projects):
        raise Forbidden(code=ForbiddenCode.NO_PROJECT_ACCESS)


def require_status_scope(actor: Actor, organization: OrganizationFacts, status: IncidentStatus) -> None:
    """Require a write scope for setting any status except closed.

    Everyone who may change an incident may close it.

    :raises Forbidden: when the new status is not closed and the actor has no write scope.
    """
    if status is IncidentStatus.CLOSED or actor.kind is CallerKind.SYSTEM:
        return
    if not effective_scopes(actor, organization) & MAY_OPEN:
        raise Forbidden(code=ForbiddenCode.SCOPE_MISSING, scopes=MAY_OPEN)


def require_comment_author(actor: Actor) -> None:
    """Require that a comment's author is a person (step 6). API keys are refused with the message that Sentry uses.

    :raises Forbidden: when the actor is neither a person nor a service acting for one.
    """
    if actor.kind is CallerKind.KEY:
        raise Forbidden("Key doesn't have permission to delete Note", code=ForbiddenCode.KEY_NOT_ALLOWED)
    require_person(actor)


def require_person(actor: Actor) -> None:
    """Require a person, or a service that acts for one, because the change is attributed to a person.

    :raises Forbidden: when the actor is an API key, or a service that acts for nobody.
    """
    if not actor.is_person and actor.kind is not CallerKind.SYSTEM:
        codes = {CallerKind.KEY: ForbiddenCode.KEY_NOT_ALLOWED, CallerKind.SERVICE: ForbiddenCode.ACT_AS_REQUIRED}
        raise Forbidden(code=codes.get(actor.kind))


def require_may_explain(actor: Actor, user: int) -> None:
    """Require that the actor may read why this person was, or was not, notified: of themselves, or as a manager.

    :raises Forbidden: when the actor is neither the person nor a manager or owner of the organization.
    """
    require_person(actor)
    if actor.user_id != user and actor.role not in GLOBAL_ROLES:
        raise Forbidden


def require_service(actor: Actor) -> None:
    """Require a service that acts as itself, not for a person.

    :raises Forbidden: when the actor is a person, an API key, or a service that acts for a person.
    """
    if (actor.kind is not CallerKind.SERVICE or actor.is_person) and actor.kind is not CallerKind.SYSTEM:
        raise Forbidden(code=ForbiddenCode.KEY_NOT_ALLOWED if actor.kind is CallerKind.KEY else None)


def require_may_submit(actor: Actor, *, for_people: bool, for_services: bool) -> None:
    """Require that the actor may submit this type of command.

    People, and services that act for a person, may submit any command that is for people. A service that acts as
    itself may only submit commands that are for services.

    :raises Forbidden: if the command is not for this kind of actor. API keys may not submit any command.
    """
    if not for_people:
        require_service(actor)
    elif not (for_services and actor.kind is CallerKind.SERVICE):
        require_person(actor)


def is_listed_by_default(actor: Actor, organization: OrganizationFacts, project: ProjectFacts) -> bool:
    """Whether the actor's list includes this project if it is not filtered by project.

    People see their teams' projects, and services see every project. API keys do not belong to a team, so they must
    filter the list by project.
    """
    if not has_project_access(actor, organization, project):
        return False
    return is_project_member(actor, project) or (actor.kind is CallerKind.SERVICE and not actor.is_person)


@dataclass(frozen=True, slots=True)
class TeamFacts:
    """The attributes of a team that determine access. ``name`` appears in the refusal."""

    id: int
    organization_id: int
    name: str
    active: bool


def require_team_access(actor: Actor, organization: OrganizationFacts, team: TeamFacts) -> None:
    """Require access to a team by which the actor filters a list.

    :raises Forbidden: when the team is inactive, belongs to another organization, or is not accessible to the actor.
    """
    if not has_team_access(actor, organization, team):
        raise Forbidden(f"Error: You do not have permission to access {team.name}")


def has_team_access(actor: Actor, organization: OrganizationFacts, team: TeamFacts) -> bool:
    """Whether the actor would have access to a project that is attached only to this team."""
    project = ProjectFacts(id=0, active=team.active, teams=frozenset({team.id}))
    return team.organization_id == organization.id and has_project_access(actor, organization, project)


def may_change_comment(user_id: int, author_id: int | None, *, is_superuser: bool) -> bool:
    """Return whether a user may edit or delete a comment: only its author and superusers may.

    To anyone else the comment is answered as unknown (404), as in Sentry's incident API.
    """
    return is_superuser or user_id == author_id
