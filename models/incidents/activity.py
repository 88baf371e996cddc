"""An incident's activities: comments, status changes, detection and creation."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import BigInteger, Column, ForeignKey, Index, SmallInteger, Table, Text, Uuid
from sqlalchemy.dialects.postgresql import JSONB

from models.base import METADATA, Timestamp, foreign_key, id_column
from models.enums import ActivityType

activities = Table(
    "incident_activities",
    METADATA,
    id_column(),
    foreign_key("incident_id", "incidents.id"),
    Column("user_id", BigInteger, ForeignKey("users.id", ondelete="CASCADE"), nullable=True),
    Column("type", SmallInteger, nullable=False),
    Column("value", Text, nullable=True),
    Column("previous_value", Text, nullable=True),
    Column("comment", Text, nullable=True),
    Column("version", BigInteger, nullable=False, server_default="1"),
    Column("date_added", Timestamp, nullable=False),
    Column("notification_uuid", Uuid, nullable=False),
    # Everyone that a comment has mentioned: {"users": [ids], "teams": [ids]}. An edit notifies only new mentions.
    Column("mentions", JSONB, nullable=True),
)
Index("incident_activities_page_idx", activities.c.incident_id, activities.c.date_added, activities.c.id)


@dataclass(slots=True)
class Activity:
    """An activity on an incident. ``user_id`` is ``None`` if tocsin itself was the actor.

    A comment's ``version`` starts at 1 and increases with each edit. ``mentioned_users`` and ``mentioned_teams`` hold
    every id that the comment has ever mentioned, including in earlier texts.
    """

    id: int
    incident_id: int
    user_id: int | None
    type: ActivityType
    date_added: datetime
    value: str | None = None
    previous_value: str | None = None
    comment: str | None = None
    version: int = 1
    mentioned_users: frozenset[int] = frozenset()
    mentioned_teams: frozenset[int] = frozenset()

    def edit(self, comment: str, *, users: Set[int], teams: Set[int]) -> None:
        """Replace a comment's text, and add these users and teams to those mentioned so far. The date is kept."""
        self.comment = comment
        self.version += 1
        self.mentioned_users |= users
        self.mentioned_teams |= teams
