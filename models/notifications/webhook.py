"""Webhooks: addresses outside tocsin to which an organization's events are sent.

Their secrets are stored encrypted (:class:`models.secrets.SecretBox`, with the purpose :data:`SECRET_PURPOSE`).
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Index,
    LargeBinary,
    Select,
    Table,
    Text,
    func,
    literal_column,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import JSON as JSONType
from sqlalchemy.dialects.postgresql import aggregate_order_by

from models.base import METADATA, TextList, enum_check, foreign_key, id_column, timestamp_column
from models.enums import Channel, DisabledReason, WebhookStatus
from models.notifications.delivery import DeliveryState, deliveries, delivery_attempts
from models.types import JSON

SECRET_PURPOSE: Final = "webhook secret"  # noqa: S105 - a purpose, not a secret
SECRET_PREFIX: Final = "whsec_"  # noqa: S105
MAX_WEBHOOKS: Final = 100
"""The maximum number of webhooks per organization. Each of them gets a delivery for every matching event."""

ROTATION_PERIOD: Final = timedelta(hours=24)
"""How long the previous secret still signs after a rotation."""

DISABLED_AFTER: Final = timedelta(days=5)
"""After how long without a single success a failing webhook is disabled."""

WEBHOOK_DELETED: Final = "webhook_deleted"
WEBHOOK_DISABLED: Final = "webhook_disabled"
EVENT_DELETED: Final = "event_deleted"
SECRET_UNREADABLE: Final = "secret_unreadable"  # noqa: S105 - a rule
"""The rules by which a delivery is not sent, or not sent now."""

TEST_EVENT: Final = "webhook.test"
DISABLED_EVENT: Final = "webhook.disabled"
"""The event type of the e-mails which tell managers and owners that tocsin has disabled a webhook."""


webhooks = Table(
    "webhooks",
    METADATA,
    id_column(),
    foreign_key("organization_id", "organizations.id"),
    Column("url", Text, nullable=False),
    # Patterns of event types: an exact type, a family such as `incident.*`, or `*`.
    Column("events", TextList, nullable=False),
    Column("description", Text, nullable=False, server_default=""),
    Column("status", Text, nullable=False, server_default=WebhookStatus.ACTIVE.value),
    Column("disabled_reason", Text, nullable=True),
    Column("secret", LargeBinary, nullable=False),
    # Signs, too, until the given time, so that the receiver can change its secret without missing anything.
    Column("previous_secret", LargeBinary, nullable=True),
    timestamp_column("previous_secret_until", nullable=True),
    # The first failure since the last success.
    timestamp_column("failing_since", nullable=True),
    Column("version", BigInteger, nullable=False, server_default="1"),
    # Not a foreign key: a webhook outlives the person who created it. NULL if a service did.
    Column("created_by", BigInteger, nullable=True),
    timestamp_column("date_created"),
    timestamp_column("date_modified"),
    enum_check("status", (status.value for status in WebhookStatus)),
)
Index(
    "webhooks_active_idx",
    webhooks.c.organization_id,
    postgresql_where=text(f"status = '{WebhookStatus.ACTIVE}'"),
)
Index("webhooks_organization_id_idx", webhooks.c.organization_id, webhooks.c.id)


@dataclass(slots=True)
class Webhook:
    """A webhook. ``secret`` and ``previous_secret`` are encrypted."""

    id: int
    organization_id: int
    url: str
    events: tuple[str, ...]
    description: str
    status: WebhookStatus
    disabled_reason: DisabledReason | None
    secret: bytes
    previous_secret: bytes | None
    previous_secret_until: datetime | None
    failing_since: datetime | None
    version: int
    created_by: int | None
    date_created: datetime
    date_modified: datetime

    @property
    def is_active(self) -> bool:
        """Whether events are sent to the webhook."""
        return self.status is WebhookStatus.ACTIVE

    def enable(self) -> None:
        """Send events to the webhook again. Earlier failures no longer count."""
        self.status, self.disabled_reason, self.failing_since = WebhookStatus.ACTIVE, None, None

    def disable(self, reason: DisabledReason) -> None:
        """Send no more events to the webhook."""
        self.status, self.disabled_reason = WebhookStatus.DISABLED, reason

    def rotate(self, secret: bytes, *, at: datetime) -> None:
        """Replace the secret. The previous one still signs for :data:`ROTATION_PERIOD`."""
        self.previous_secret, self.previous_secret_until = self.secret, at + ROTATION_PERIOD
        self.secret = secret

    def record_change(self, at: datetime) -> None:
        """Give the webhook a new version."""
        self.version += 1
        self.date_modified = at


WEBHOOK_FIELDS: Final = tuple(column.name for column in webhooks.c)


def webhook_from_row(row: Any) -> Webhook:
    """Build a webhook from a row with all the table's columns."""
    values = {name: getattr(row, name) for name in WEBHOOK_FIELDS}
    return Webhook(
        **values
        | {
            "events": tuple(row.events),
            "status": WebhookStatus(row.status),
            "disabled_reason": None if row.disabled_reason is None else DisabledReason(row.disabled_reason),
            "secret": bytes(row.secret),
            "previous_secret": None if row.previous_secret is None else bytes(row.previous_secret),
        }
    )


class WebhookDelivery(NamedTuple):
    """A delivery to a webhook, as it is shown. ``attempts`` holds JSON objects, oldest first."""

    id: UUID
    organization_id: int
    destination_id: int
    event_id: UUID
    event_type: str
    state: DeliveryState
    due_at: datetime
    date_created: datetime
    detail: str | None
    attempts: Sequence[Mapping[str, JSON]]


def webhook_deliveries() -> Select[Any]:
    """Return a statement that selects deliveries to webhooks, with the columns of :class:`WebhookDelivery`."""
    return destination_deliveries(Channel.WEBHOOK)


def destination_deliveries(channel: Channel) -> Select[Any]:
    """Return a statement that selects deliveries to the destinations of a channel, as :func:`webhook_deliveries`."""
    columns = [deliveries.c[name] for name in WebhookDelivery._fields if name != "attempts"]
    shown = ("at", "status", "duration_ms", "error")
    fields: list[ColumnElement[Any]] = []
    for name in shown:
        fields += [literal_column(f"'{name}'"), delivery_attempts.c[name]]
    attempts = (
        select(func.json_agg(aggregate_order_by(func.json_build_object(*fields), delivery_attempts.c.number)))
        .where(delivery_attempts.c.delivery_id == deliveries.c.id)
        .correlate(deliveries)
        .scalar_subquery()
    )
    return select(*columns, func.coalesce(attempts, literal_column("'[]'::json", JSONType)).label("attempts")).where(
        deliveries.c.channel == channel.value, deliveries.c.destination_id.is_not(None)
    )


class NewWebhookDelivery(NamedTuple):
    """A delivery to insert that a command makes, and not an event: a test. ``body`` is a CloudEvent in JSON."""

    id: UUID
    organization_id: int
    channel: str
    destination_id: int
    target_key: str
    event_id: UUID
    event_type: str
    body: bytes
    due_at: datetime


def new_secret() -> str:
    """Return a new secret: 256 random bits in standard base64, which every verifying library accepts."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def family_pattern(event_type: str) -> str:
    """Return the pattern that matches every event type of the same family, for example ``incident.*``."""
    return f"{event_type.partition('.')[0]}.*"
