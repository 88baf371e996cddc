"""The tables for deliveries: messages that are sent to people or to addresses outside tocsin.

A row is inserted in the transaction that plans a notification, or in the one that triggers a rule's action. The message
is sent later, after the recipient's access has been checked again (:mod:`workers.deliver`). The id never changes: it is
the message's id on every channel, so that a recipient can discard a duplicate.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    Uuid,
    func,
    text,
)

from models.base import METADATA, foreign_key, timestamp_column


class DeliveryMethod(StrEnum):
    """The reason for a delivery: the incident became more severe (``fire``) or less severe (``resolve``)."""

    FIRE = "fire"
    RESOLVE = "resolve"


class DeliveryState(StrEnum):
    """The state of a delivery. Every state except ``pending`` is final, but an operator may retry any delivery.

    ``suppressed``: by a rule, for example because the person has lost access. ``cancelled``: the comment was deleted.
    ``failed``: the recipient refused the message for good. ``dead``: every attempt failed.
    """

    PENDING = "pending"
    DELIVERED = "delivered"
    SUPPRESSED = "suppressed"
    CANCELLED = "cancelled"
    FAILED = "failed"
    DEAD = "dead"


_IS_PENDING = f"state = '{DeliveryState.PENDING}'"
IS_UNCLAIMED = f"{_IS_PENDING} AND claimed_by IS NULL"
"""The condition, in SQL, under which a delivery may be claimed."""

deliveries = Table(
    "deliveries",
    METADATA,
    Column("id", Uuid, primary_key=True),
    foreign_key("organization_id", "organizations.id"),
    foreign_key("incident_id", "incidents.id", nullable=True),
    # Not foreign keys: the record of a delivery outlives its activity, rule and action.
    Column("activity_id", BigInteger, nullable=True),
    Column("rule_id", BigInteger, nullable=True),
    Column("action_id", BigInteger, nullable=True),
    Column("project_id", BigInteger, nullable=True),
    Column("channel", Text, nullable=False),
    foreign_key("user_id", "users.id", nullable=True),
    # The recipient that a rule's action names.
    Column("target", Text, nullable=True),
    Column("method", Text, nullable=True),
    Column("status", SmallInteger, nullable=True),
    Column("state", Text, nullable=False, server_default=DeliveryState.PENDING.value),
    Column("attempts", SmallInteger, nullable=False, server_default="0"),
    timestamp_column("due_at"),
    timestamp_column("date_created"),
    Column("event_id", Uuid, nullable=True),
    Column("event_type", Text, nullable=True),
    # Why a person is notified, as in their inbox.
    Column("reason", Text, nullable=True),
    # The webhook, or the chat destination, by channel. Not a foreign key: the record outlives it.
    Column("destination_id", BigInteger, nullable=True),
    # Deliveries with the same key share a concurrency limit and a circuit breaker.
    Column("target_key", Text, nullable=False, server_default=""),
    # Whether the delivery is sent in one message with the person's others on this channel, for example in a digest.
    Column("is_merged", Boolean, nullable=False, server_default=text("false")),
    # The delivery whose message contained this one.
    Column("merged_into", Uuid, nullable=True),
    # The message as it was or will be sent. Retries send the same bytes.
    Column("body", LargeBinary, nullable=True),
    Column("claimed_by", Uuid, nullable=True),
    timestamp_column("claimed_at", nullable=True),
    timestamp_column("finished_at", nullable=True),
    # The rule that suppressed the delivery, or the last error.
    Column("detail", Text, nullable=True),
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
# However often an event is planned, a person and a destination are notified at most once per channel.
Index(
    "deliveries_person_key",
    deliveries.c.activity_id,
    deliveries.c.user_id,
    deliveries.c.channel,
    func.coalesce(deliveries.c.destination_id, 0),
    unique=True,
    postgresql_where=text("action_id IS NULL AND user_id IS NOT NULL"),
)
Index(
    "deliveries_destination_key",
    deliveries.c.event_id,
    deliveries.c.channel,
    deliveries.c.destination_id,
    unique=True,
    postgresql_where=text("destination_id IS NOT NULL AND user_id IS NULL"),
)
Index("deliveries_unclaimed_idx", deliveries.c.target_key, deliveries.c.due_at, postgresql_where=text(IS_UNCLAIMED))
Index("deliveries_claimed_idx", deliveries.c.claimed_by, postgresql_where=text("claimed_by IS NOT NULL"))
Index("deliveries_of_user_idx", deliveries.c.user_id, deliveries.c.channel, postgresql_where=text(_IS_PENDING))
# For the number of messages that a person got within an hour.
Index(
    "deliveries_recent_idx",
    deliveries.c.user_id,
    deliveries.c.channel,
    deliveries.c.date_created,
    postgresql_where=text("user_id IS NOT NULL AND NOT is_merged"),
)
Index("deliveries_of_destination_idx", deliveries.c.channel, deliveries.c.destination_id, deliveries.c.id)
Index("deliveries_organization_id_idx", deliveries.c.organization_id, deliveries.c.id)
Index("deliveries_incident_id_idx", deliveries.c.incident_id)
# For operators' lists and numbers.
Index("deliveries_finished_idx", deliveries.c.finished_at, postgresql_where=text("finished_at IS NOT NULL"))
Index("deliveries_by_user_idx", deliveries.c.user_id, deliveries.c.id, postgresql_where=text("user_id IS NOT NULL"))
IS_UNDELIVERED = f"state IN ('{DeliveryState.FAILED}', '{DeliveryState.DEAD}')"
Index("deliveries_unsuccessful_idx", deliveries.c.state, deliveries.c.id, postgresql_where=text(IS_UNDELIVERED))

delivery_attempts = Table(
    "delivery_attempts",
    METADATA,
    Column("delivery_id", Uuid, primary_key=True),
    Column("number", SmallInteger, primary_key=True, autoincrement=False),
    timestamp_column("at"),
    # The status code of the answer: of HTTP or of SMTP, by channel. NULL if there was no answer.
    Column("status", SmallInteger, nullable=True),
    Column("duration_ms", Integer, nullable=False),
    Column("error", Text, nullable=True),
)


class NewDelivery(NamedTuple):
    """A delivery to insert for a rule's action. ``status`` is the incident's new status."""

    id: UUID
    organization_id: int
    incident_id: int
    activity_id: int
    event_id: UUID
    rule_id: int | None
    action_id: int | None
    project_id: int | None
    channel: str
    user_id: int | None
    target: str | None
    method: DeliveryMethod
    status: int
    due_at: datetime
    target_key: str


def target_key(channel: str, organization_id: int, destination: object = None) -> str:
    """Return the key of the target to which a delivery is sent: its channel, organization and destination, if any.

    Deliveries with the same key share a concurrency limit and a circuit breaker, so a key stands for whatever can fail
    or hang alone. All e-mails of an organization share a key: they go to one mail server, which takes turns between
    organizations.
    """
    return f"{channel}:{organization_id}" + (f":{destination}" if destination is not None else "")
