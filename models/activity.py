"""What happened on an incident: comments, status changes, its detection and creation."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import BigInteger, Column, ForeignKey, Index, SmallInteger, Table, Text, Uuid

from models.base import METADATA, Moment, id_column, reference
from models.vocabulary import ActivityType

activities = Table(
    "incident_activities",
    METADATA,
    id_column(),
    reference("incident_id", "incidents.id"),
    Column("user_id", BigInteger, ForeignKey("users.id", ondelete="CASCADE"), nullable=True),
    Column("type", SmallInteger, nullable=False),
    Column("value", Text, nullable=True),
    Column("previous_value", Text, nullable=True),
    Column("comment", Text, nullable=True),
    Column("version", BigInteger, nullable=False, server_default="1"),
    Column("date_added", Moment, nullable=False),
    Column("notification_uuid", Uuid, nullable=False),
)
Index("incident_activities_page_idx", activities.c.incident_id, activities.c.date_added, activities.c.id)


@dataclass(slots=True)
class Activity:
    """One activity as a batch works on it. ``version`` counts the edits of a comment, from 1."""

    id: int
    incident_id: int
    user_id: int | None
    type: ActivityType
    value: str | None
    previous_value: str | None
    comment: str | None
    date_added: datetime
    version: int = 1
