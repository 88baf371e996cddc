"""The tables for people's preferences and muted incidents, and the queries that decide about messages."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from sqlalchemy import BigInteger, Column, Index, Table
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Connection

from models.base import METADATA, foreign_key, timestamp_column
from models.notifications.access import Membership
from models.notifications.delivery import DeliveryState
from models.notifications.preferences import STORM_BUDGET, Contact, contact_from_row

notification_preferences = Table(
    "notification_preferences",
    METADATA,
    foreign_key("user_id", "users.id", primary_key=True),
    # Holds only what the person has set. Everything else has its default.
    Column("document", JSONB, nullable=False, server_default="{}"),
    # Increases with every change of the document or of the muted incidents, for If-Match.
    Column("version", BigInteger, nullable=False, server_default="1"),
    timestamp_column("date_modified"),
)

incident_mutes = Table(
    "incident_mutes",
    METADATA,
    foreign_key("incident_id", "incidents.id", primary_key=True),
    foreign_key("user_id", "users.id", primary_key=True),
    # NULL: until the person ends it.
    timestamp_column("until", nullable=True),
)
Index("incident_mutes_user_id_idx", incident_mutes.c.user_id)

_CONTACTS: Final = """
SELECT w.organization_id, u.id AS user_id, u.email, u.timezone, p.document, EXISTS (
    SELECT FROM chat_destinations c
    WHERE c.organization_id = w.organization_id AND c.user_id = u.id AND c.status = 'active'
) AS has_chat
FROM unnest(%(organizations)s::bigint[], %(users)s::bigint[]) AS w(organization_id, user_id)
JOIN users u ON u.id = w.user_id
LEFT JOIN notification_preferences p ON p.user_id = u.id
"""

_MUTES: Final = """
SELECT incident_id, user_id FROM incident_mutes
WHERE incident_id = ANY(%(ids)s::bigint[]) AND (until IS NULL OR until > clock_timestamp())
"""


def load_contacts(connection: Connection, memberships: Collection[Membership]) -> dict[Membership, Contact]:
    """Return what decides about messages to each user from each organization. Destinations belong to organizations."""
    wanted = list(memberships)
    parameters = {"organizations": [each[0] for each in wanted], "users": [each[1] for each in wanted]}
    rows = connection.exec_driver_sql(_CONTACTS, parameters)
    return {(row.organization_id, row.user_id): contact_from_row(row) for row in rows}


def load_mutes(connection: Connection, incidents: Collection[int]) -> set[tuple[int, int]]:
    """Return the incidents that are muted now, as pairs of incident id and the id of the user who muted it."""
    rows = connection.exec_driver_sql(_MUTES, {"ids": list(incidents)})
    return {(row.incident_id, row.user_id) for row in rows}


RECENT_MESSAGES: Final = f"""
SELECT w.user_id, w.channel, (
    SELECT count(*) FROM (
        SELECT FROM deliveries d
        WHERE d.user_id = w.user_id AND d.channel = w.channel AND NOT d.is_merged AND d.date_created > %(since)s
            AND d.state NOT IN ('{DeliveryState.SUPPRESSED}', '{DeliveryState.CANCELLED}')
        LIMIT {STORM_BUDGET}
    ) AS recent
) AS sent
FROM unnest(%(users)s::bigint[], %(channels)s::text[]) AS w(user_id, channel)
"""  # noqa: S608 - our own constants
"""The query for the number of messages that people got at once since a time, up to :data:`STORM_BUDGET`."""
