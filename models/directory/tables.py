"""Who exists: organizations, people, projects, teams, members, tokens."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

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

from models.base import METADATA, TextList, foreign_key, id_column, timestamp_column

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
# Mentions name people by username or e-mail address, in any case; a username in any case means one person.
Index("users_username_lower_key", func.lower(users.c.username), unique=True)
Index("users_email_lower_idx", func.lower(users.c.email))

projects = Table(
    "projects",
    METADATA,
    id_column(),
    foreign_key("organization_id", "organizations.id"),
    Column("slug", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("status", Text, nullable=False, server_default="active"),
    UniqueConstraint("organization_id", "slug"),
    CheckConstraint("status IN ('active', 'inactive')", name="status"),
)

teams = Table(
    "teams",
    METADATA,
    id_column(),
    foreign_key("organization_id", "organizations.id"),
    Column("slug", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("status", Text, nullable=False, server_default="active"),
    UniqueConstraint("organization_id", "slug"),
    CheckConstraint("status IN ('active', 'inactive')", name="status"),
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
    Column("role", Text, nullable=False, server_default="member"),
    UniqueConstraint("organization_id", "user_id"),
    CheckConstraint("role IN ('member', 'admin', 'manager', 'owner')", name="role"),
)
Index("members_user_id_idx", members.c.user_id)

team_members = Table(
    "team_members",
    METADATA,
    foreign_key("team_id", "teams.id", primary_key=True),
    foreign_key("member_id", "members.id", primary_key=True),
    # A place once held still makes someone mentionable, so it is switched off rather than deleted.
    Column("is_active", Boolean, nullable=False, server_default=text("true")),
)
Index("team_members_member_id_idx", team_members.c.member_id)

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
    CheckConstraint("kind IN ('user', 'key', 'service', 'ops')", name="kind"),
    CheckConstraint("(kind = 'user') = (user_id IS NOT NULL)", name="person"),
    CheckConstraint("(kind IN ('key', 'service')) = (organization_id IS NOT NULL)", name="organization"),
    CheckConstraint("(kind = 'ops') = (ops_role IS NOT NULL)", name="ops"),
    CheckConstraint("NOT act_as OR kind = 'service'", name="act_as"),
)


@dataclass(frozen=True, slots=True)
class Person:
    """Someone with an account."""

    id: int
    username: str
    name: str
    email: str
    is_active: bool
    is_superuser: bool
    date_joined: datetime


def hash_token(token: str) -> bytes:
    """How a token is stored: SHA-256. Its 256 random bits need no slow hash."""
    return hashlib.sha256(token.encode()).digest()
