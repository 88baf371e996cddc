"""The directory's tables: organizations, users, projects, teams, members and tokens."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Index,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)

from models.base import METADATA, TextList, enum_check, foreign_key, id_column, timestamp_column
from models.enums import CallerKind, ObjectStatus, Role

organizations = Table(
    "organizations",
    METADATA,
    id_column(),
    Column("slug", Text, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("features", TextList, nullable=False, server_default="{}"),
    Column("open_membership", Boolean, nullable=False, server_default=text("true")),
    Column("alerts_member_write", Boolean, nullable=False, server_default=text("true")),
    Column("events_member_admin", Boolean, nullable=False, server_default=text("true")),
    timestamp_column("date_created"),
)

users = Table(
    "users",
    METADATA,
    id_column(),
    Column("username", Text, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("email", Text, nullable=False),
    Column("is_active", Boolean, nullable=False, server_default=text("true")),
    Column("is_superuser", Boolean, nullable=False, server_default=text("false")),
    Column("timezone", Text, nullable=False, server_default="UTC"),
    timestamp_column("date_joined"),
)
# Mentions refer to people by username or e-mail address, case-insensitively. Usernames are unique in this sense.
Index("users_username_lower_key", func.lower(users.c.username), unique=True)
Index("users_email_lower_idx", func.lower(users.c.email))

projects = Table(
    "projects",
    METADATA,
    id_column(),
    foreign_key("organization_id", "organizations.id"),
    Column("slug", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("status", Text, nullable=False, server_default=ObjectStatus.ACTIVE.value),
    UniqueConstraint("organization_id", "slug"),
    enum_check("status", ObjectStatus),
)

teams = Table(
    "teams",
    METADATA,
    id_column(),
    foreign_key("organization_id", "organizations.id"),
    Column("slug", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("status", Text, nullable=False, server_default=ObjectStatus.ACTIVE.value),
    UniqueConstraint("organization_id", "slug"),
    enum_check("status", ObjectStatus),
)

project_teams = Table(
    "project_teams",
    METADATA,
    foreign_key("project_id", "projects.id", primary_key=True),
    foreign_key("team_id", "teams.id", primary_key=True),
)
Index("project_teams_team_id_idx", project_teams.c.team_id)

members = Table(
    "members",
    METADATA,
    id_column(),
    foreign_key("organization_id", "organizations.id"),
    foreign_key("user_id", "users.id"),
    Column("role", Text, nullable=False, server_default=Role.MEMBER.value),
    UniqueConstraint("organization_id", "user_id"),
    enum_check("role", Role),
)
Index("members_user_id_idx", members.c.user_id)

team_members = Table(
    "team_members",
    METADATA,
    foreign_key("team_id", "teams.id", primary_key=True),
    foreign_key("member_id", "members.id", primary_key=True),
    # Former members of a team can still be mentioned, so a membership becomes inactive instead of being deleted.
    Column("is_active", Boolean, nullable=False, server_default=text("true")),
)
Index("team_members_member_id_idx", team_members.c.member_id)

TOKEN_KINDS: Final = (CallerKind.USER, CallerKind.KEY, CallerKind.SERVICE, CallerKind.OPS)
"""The kinds of tokens: one for each kind of caller except tocsin itself."""

tokens = Table(
    "tokens",
    METADATA,
    id_column(),
    Column("hash", LargeBinary, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    foreign_key("user_id", "users.id", nullable=True),
    foreign_key("organization_id", "organizations.id", nullable=True),
    Column("name", Text, nullable=False, server_default=""),
    Column("scopes", TextList, nullable=True),
    Column("act_as", Boolean, nullable=False, server_default=text("false")),
    Column("ops_role", Text, nullable=True),
    timestamp_column("date_created"),
    timestamp_column("expires_at", nullable=True),
    timestamp_column("revoked_at", nullable=True),
    enum_check("kind", TOKEN_KINDS),
    CheckConstraint(f"(kind = '{CallerKind.USER}') = (user_id IS NOT NULL)", name="person"),
    CheckConstraint(
        f"(kind IN ('{CallerKind.KEY}', '{CallerKind.SERVICE}')) = (organization_id IS NOT NULL)", name="organization"
    ),
    CheckConstraint(f"(kind = '{CallerKind.OPS}') = (ops_role IS NOT NULL)", name="ops"),
    CheckConstraint(f"NOT act_as OR kind = '{CallerKind.SERVICE}'", name="act_as"),
)


@dataclass(frozen=True, slots=True)
class Person:
    """A person with an account."""

    id: int
    username: str
    name: str
    email: str
    is_active: bool
    is_superuser: bool
    date_joined: datetime


def hash_token(token: str) -> bytes:
    """Return the SHA-256 hash that is stored for a token. A token with 256 random bits does not need a slow hash."""
    return hashlib.sha256(token.encode()).digest()
