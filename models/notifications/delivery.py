"""The table for deliveries: messages that are sent to people or to addresses outside tocsin.

A row is inserted in the same transaction as the change that triggers a rule's action. The message is sent later, after
the recipient's access has been checked again.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import BigInteger, Column, Index, SmallInteger, Table, Text, Uuid, func, text

from models.base import METADATA, foreign_key, timestamp_column


class DeliveryMethod(StrEnum):
    """The reason for a delivery: the incident became more severe (``fire``) or less severe (``resolve``)."""

    FIRE = "fire"
    RESOLVE = "resolve"


class DeliveryState(StrEnum):
    """The state of a delivery."""

    PENDING = "pending"


deliveries = Table(
    "deliveries",
    METADATA,
    Column("id", Uuid, primary_key=True),
    foreign_key("organization_id", "organizations.id"),
    foreign_key("incident_id", "incidents.id"),
    # Not foreign keys: the record of a delivery outlives its activity, rule and action.
    Column("activity_id", BigInteger, nullable=False),
    Column("rule_id", BigInteger, nullable=True),
    Column("action_id", BigInteger, nullable=True),
    Column("project_id", BigInteger, nullable=True),
    Column("channel", Text, nullable=False),
    foreign_key("user_id", "users.id", nullable=True),
    Column("target", Text, nullable=True),
    Column("method", Text, nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("state", Text, nullable=False, server_default=DeliveryState.PENDING.value),
    Column("attempts", SmallInteger, nullable=False, server_default="0"),
    timestamp_column("due_at"),
    timestamp_column("date_created"),
)
# However often an action is executed, a person or an address is notified at most once per change and project.
Index(
    "deliveries_once_key",
    deliveries.c.activity_id,
    deliveries.c.action_id,
    deliveries.c.project_id,
    func.coalesce(deliveries.c.user_id, 0),
    unique=True,
)
Index("deliveries_due_idx", deliveries.c.due_at, postgresql_where=text(f"state = '{DeliveryState.PENDING}'"))
Index("deliveries_incident_id_idx", deliveries.c.incident_id)


class NewDelivery(NamedTuple):
    """A delivery to insert. ``status`` is the incident's new status."""

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
