"""People, organizations, teams, projects and members as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

from models.directory.tables import Person
from models.enums import (
    ObjectStatus,
    Role,
)
from models.json_fields import DateTime, Id
from models.timestamps import iso
from models.types import JSON


class UserBriefJson(TypedDict):
    """A user in a list."""

    id: Id
    name: str
    username: str
    email: str


class EmailJson(TypedDict):
    """A user's e-mail address."""

    id: Id
    email: str
    is_verified: bool


class AvatarJson(TypedDict):
    """A user's avatar."""

    avatarType: str
    avatarUuid: str | None
    avatarUrl: str | None


class UserJson(UserBriefJson):
    """A user, with every field of Sentry's user object."""

    avatarUrl: str | None
    isActive: bool
    hasPasswordAuth: bool
    isManaged: bool
    dateJoined: DateTime
    lastLogin: DateTime | None
    has2fa: bool
    lastActive: DateTime | None
    isSuperuser: bool
    isStaff: bool
    experiments: dict[str, JSON]
    emails: list[EmailJson]
    avatar: AvatarJson


def person_brief_json(person: Person) -> UserBriefJson:
    """Serialize a person for a list."""
    return {"id": str(person.id), "name": person.name, "username": person.username, "email": person.email}


def person_json(person: Person) -> UserJson:
    """Serialize a person as Sentry's user object. tocsin does not store passwords, avatars or logins."""
    return {
        **person_brief_json(person),
        "avatarUrl": None,
        "isActive": person.is_active,
        "hasPasswordAuth": False,
        "isManaged": False,
        "dateJoined": iso(person.date_joined),
        "lastLogin": None,
        "has2fa": False,
        "lastActive": None,
        "isSuperuser": person.is_superuser,
        "isStaff": False,
        "experiments": {},
        "emails": [{"id": str(person.id), "email": person.email, "is_verified": True}] if person.email else [],
        "avatar": {"avatarType": "letter_avatar", "avatarUuid": None, "avatarUrl": None},
    }


class OrganizationOptionsJson(TypedDict):
    """The organization settings on which the policy depends."""

    open_membership: bool
    alerts_member_write: bool
    events_member_admin: bool


class OrganizationJson(TypedDict):
    """An organization, with its features sorted."""

    id: Id
    slug: str
    name: str
    features: list[str]
    options: OrganizationOptionsJson


def organization_json(row: Mapping[str, Any]) -> OrganizationJson:
    """Serialize an organization from its row."""
    return {
        "id": str(row["id"]),
        "slug": row["slug"],
        "name": row["name"],
        "features": sorted(row["features"]),
        "options": {
            "open_membership": row["open_membership"],
            "alerts_member_write": row["alerts_member_write"],
            "events_member_admin": row["events_member_admin"],
        },
    }


class TeamOrProjectJson(TypedDict):
    """A team or a project."""

    id: Id
    slug: str
    name: str
    status: ObjectStatus


def team_or_project_json(row: Mapping[str, Any]) -> TeamOrProjectJson:
    """Serialize a team or a project from its row."""
    return {"id": str(row["id"]), "slug": row["slug"], "name": row["name"], "status": row["status"]}


class MemberJson(TypedDict):
    """A member of an organization. ``teams`` holds sorted slugs."""

    id: Id
    role: Role
    user: UserBriefJson
    teams: list[str]


def member_json(member_id: int, *, role: Role, person: Person, teams: Iterable[str]) -> MemberJson:
    """Serialize a member of an organization. ``teams`` holds slugs."""
    return {"id": str(member_id), "role": role, "user": person_brief_json(person), "teams": sorted(teams)}
