"""Webhooks and their deliveries as JSON."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, NotRequired, TypedDict

from models.enums import DisabledReason, WebhookStatus
from models.json_fields import DateTime, Id, Uuid
from models.notifications.delivery import DeliveryState
from models.notifications.webhook import Webhook
from models.serializers.inbox_item import EventReferenceJson
from models.timestamps import iso, iso_or_none

_SHOWN_STATES: Final = {DeliveryState.SUPPRESSED: DeliveryState.FAILED, DeliveryState.CANCELLED: DeliveryState.FAILED}
"""The states that a delivery to a webhook is shown in, if that is another one: it was not sent, as ``detail`` says."""


class WebhookJson(TypedDict):
    """A webhook. ``secret`` is contained only when it is new."""

    id: Id
    url: str
    events: list[str]
    description: str
    status: WebhookStatus
    disabledReason: DisabledReason | None
    failingSince: DateTime | None
    version: int
    dateCreated: DateTime
    secret: NotRequired[str]


class WebhookWithSecretJson(WebhookJson):
    """A webhook with the secret that it has just been given."""

    secret: str  # type: ignore[misc] # narrower than in the base class


class AttemptJson(TypedDict):
    """An attempt to send a delivery. ``status`` is the HTTP status of the answer, if there was one."""

    at: DateTime
    status: int | None
    durationMs: int
    error: str | None


class WebhookDeliveryJson(TypedDict):
    """A delivery of an event to a webhook, with its attempts, oldest first. ``detail`` says why it ended as it did."""

    id: Uuid
    event: EventReferenceJson
    status: DeliveryState
    attempts: list[AttemptJson]
    nextAttemptAt: DateTime | None
    dateCreated: DateTime
    detail: str | None


def webhook_json(webhook: Webhook) -> WebhookJson:
    """Serialize a webhook, without its secret."""
    return {
        "id": str(webhook.id),
        "url": webhook.url,
        "events": list(webhook.events),
        "description": webhook.description,
        "status": webhook.status,
        "disabledReason": webhook.disabled_reason,
        "failingSince": iso_or_none(webhook.failing_since),
        "version": webhook.version,
        "dateCreated": iso(webhook.date_created),
    }


def webhook_delivery_json(row: Any) -> WebhookDeliveryJson:
    """Serialize a delivery from a row of :func:`models.notifications.webhook.webhook_deliveries`."""
    state = DeliveryState(row.state)
    return {
        "id": str(row.id),
        "event": {"id": str(row.event_id), "type": row.event_type},
        "status": _SHOWN_STATES.get(state, state),
        "attempts": [
            {
                "at": iso(datetime.fromisoformat(each["at"])),
                "status": each["status"],
                "durationMs": each["duration_ms"],
                "error": each["error"],
            }
            for each in row.attempts
        ],
        "nextAttemptAt": iso(row.due_at) if state is DeliveryState.PENDING else None,
        "dateCreated": iso(row.date_created),
        "detail": row.detail,
    }
