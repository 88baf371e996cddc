"""What is to reach somebody outside: one row for each person or address, made with the change it tells of.

A row is written when a rule's action fires; sending it is a later step that looks again at who may know.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple
from uuid import UUID

from sqlalchemy import BigInteger, Column, Index, SmallInteger, Table, Text, Uuid, func, text

from models.base import METADATA, foreign_key, timestamp_column


class DeliveryMethod(StrEnum):
    """Whether it says that something burns, or that it burns less."""

    FIRE = "fire"
    RESOLVE = "resolve"


PENDING: Final = "pending"

deliveries = Table(
    "deliveries",
    METADATA,
    Column("id", Uuid, primary_key=True),
    foreign_key("organization_id", "organizations.id"),
    foreign_key("incident_id", "incidents.id"),
    # No foreign keys: what was told stays on record when an activity or an action is gone.
    Column("activity_id", BigInteger, nullable=False),
    Column("rule_id", BigInteger, nullable=True),
    Column("action_id", BigInteger, nullable=True),
    Column("project_id", BigInteger, nullable=True),
    Column("channel", Text, nullable=False),
    foreign_key("user_id", "users.id", nullable=True),
    Column("target", Text, nullable=True),
    Column("method", Text, nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("state", Text, nullable=False, server_default=PENDING),
    Column("attempts", SmallInteger, nullable=False, server_default="0"),
    timestamp_column("due_at"),
    timestamp_column("date_created"),
)
# However often an action is carried out, somebody is reached once for each change and project.
Index(
    "deliveries_once_key",
    deliveries.c.activity_id,
    deliveries.c.action_id,
    deliveries.c.project_id,
    func.coalesce(deliveries.c.user_id, 0),
    unique=True,
)
Index("deliveries_due_idx", deliveries.c.due_at, postgresql_where=text("state = 'pending'"))
Index("deliveries_incident_id_idx", deliveries.c.incident_id)


class NewDelivery(NamedTuple):
    """A delivery about to be written, due at ``due_at``. ``status`` is the incident's that it tells of."""

    id: UUID
    organization_id: int
    incident_id: int
    activity_id: int
    rule_id: int | None
    action_id: int | None
    project_id: int | None
    channel: str
    user_id: int | None
    target: str | None
    method: DeliveryMethod
    status: int
    due_at: datetime
