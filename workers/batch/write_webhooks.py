"""Functions that write a batch's changes to webhooks and their deliveries."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import delete, insert, update
from sqlalchemy.engine import Connection

from models.base import insert_rows
from models.notifications.delivery import deliveries
from models.notifications.webhook import WEBHOOK_FIELDS, NewWebhookDelivery, Webhook, webhooks
from workers.batch.changes import WebhookChanges

# If the delivery is pending, the deliverer may be sending it now. It then only becomes due.
_REDELIVER: Final = """
UPDATE deliveries SET
    due_at = clock_timestamp(),
    finished_at = NULL,
    detail = NULL,
    state = 'pending',
    claimed_by = CASE WHEN state = 'pending' THEN claimed_by END,
    claimed_at = CASE WHEN state = 'pending' THEN claimed_at END
WHERE id = ANY(%(ids)s::uuid[])
"""


def write_webhooks(connection: Connection, changes: WebhookChanges) -> None:
    """Write the changes to webhooks. Tenants change them rarely, so each one has a statement of its own."""
    if changes.created:
        connection.execute(insert(webhooks), [_values(webhook) for webhook in changes.created.values()])
    for webhook in changes.updated.values():
        connection.execute(update(webhooks).where(webhooks.c.id == webhook.id).values(_values(webhook)))
    if changes.deleted:
        connection.execute(delete(webhooks).where(webhooks.c.id.in_(changes.deleted)))
    insert_rows(connection, deliveries, NewWebhookDelivery._fields, changes.tests)
    if changes.redelivered:
        connection.exec_driver_sql(_REDELIVER, {"ids": list(changes.redelivered)})


def _values(webhook: Webhook) -> dict[str, Any]:
    return {name: _plain(getattr(webhook, name)) for name in WEBHOOK_FIELDS}


def _plain(value: Any) -> Any:
    if isinstance(value, StrEnum):
        return value.value
    return list(value) if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) else value
