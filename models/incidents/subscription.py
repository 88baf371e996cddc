"""The table for people's subscriptions to incidents, each with its reason."""

from __future__ import annotations

from sqlalchemy import Column, Index, Table, Text

from models.base import METADATA, Timestamp, foreign_key

subscriptions = Table(
    "incident_subscriptions",
    METADATA,
    foreign_key("incident_id", "incidents.id", primary_key=True),
    foreign_key("user_id", "users.id", primary_key=True),
    Column("reason", Text, nullable=False),
    Column("date_added", Timestamp, nullable=False),
)
# For queries that read one person's incidents.
Index("incident_subscriptions_person_idx", subscriptions.c.user_id, subscriptions.c.incident_id)
