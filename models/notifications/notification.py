"""The tables for inbox items and for decisions about whether to notify a person."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import BigInteger, Boolean, Column, Index, Table, Text, UniqueConstraint, Uuid, text
from sqlalchemy.engine import Connection

from models.base import METADATA, foreign_key, id_column, insert_rows, timestamp_column, transaction_columns
from models.enums import DecisionOutcome

notifications = Table(
    "notifications",
    METADATA,
    id_column(),
    foreign_key("organization_id", "organizations.id"),
    foreign_key("user_id", "users.id"),
    foreign_key("incident_id", "incidents.id"),
    # Not a foreign key: when a comment is deleted, its inbox item is kept and marked as retracted.
    Column("activity_id", BigInteger, nullable=False),
    Column("event_id", Uuid, nullable=False),
    Column("event_type", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("retracted", Boolean, nullable=False, server_default=text("false")),
    timestamp_column("date_created"),
    timestamp_column("date_read", nullable=True),
    *transaction_columns(),
    UniqueConstraint("activity_id", "user_id"),
)
Index("notifications_inbox_idx", notifications.c.user_id, notifications.c.organization_id, notifications.c.id)
Index(
    "notifications_unread_idx",
    notifications.c.user_id,
    notifications.c.organization_id,
    notifications.c.id,
    postgresql_where=notifications.c.date_read.is_(None),
)

Index("notifications_written_idx", notifications.c.organization_id, notifications.c.written_by)

decisions = Table(
    "notification_decisions",
    METADATA,
    Column("activity_id", BigInteger, primary_key=True),
    foreign_key("user_id", "users.id", primary_key=True),
    Column("channel", Text, primary_key=True),
    Column("incident_id", BigInteger, nullable=False),
    Column("event_id", Uuid, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("rule", Text, nullable=False),
    Column("detail", Text, nullable=False, server_default=""),
    timestamp_column("at"),
)
Index("notification_decisions_explain_idx", decisions.c.user_id, decisions.c.incident_id)


class NewDecision(NamedTuple):
    """The decision on whether a person is notified of an activity through a channel, with the rule that decided it."""

    activity_id: int
    user_id: int
    channel: str
    incident_id: int
    event_id: UUID
    outcome: DecisionOutcome
    rule: str
    detail: str


def insert_decisions(connection: Connection, rows: Iterable[NewDecision], on_conflict: str) -> None:
    """Insert decisions with a single statement. ``on_conflict`` is its ON CONFLICT clause."""
    # psycopg would send the names of enum members.
    values = (tuple(each.value if isinstance(each, StrEnum) else each for each in row) for row in rows)
    insert_rows(connection, decisions, NewDecision._fields, values, on_conflict)
